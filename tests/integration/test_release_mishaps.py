"""Releases that meet what nobody planned for: one that was good turns bad, a link is missing, a disk is full."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator

import pytest
from kit_engine import releases
from support import traffic
from support.backups import sql
from support.host_releases import HostReleases, Released, Version, demand_served, demand_whole

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# Ready until a row says otherwise, as a release is that a change of the data breaks.
FICKLE = """
def up(_request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM kit_rows WHERE text = 'unfit'")
        return HttpResponse("up", status=503 if cursor.fetchone()[0] else 200)


urlpatterns = [path("up", up), *urlpatterns[1:]]
"""


@pytest.fixture
def fickle(released: Released) -> Version:
    """A version that gets ready unless a row says otherwise; of one that failed the image is gone before long."""
    return released.host.version("fickle", settings=FICKLE)


@pytest.fixture
def unfit(released: Released) -> Iterator[None]:
    """Afterwards no row says so any more, and a good release serves."""
    yield
    sql(released.host, "DELETE FROM kit_rows WHERE text = 'unfit'")
    told = released.host.deploy(released.good)
    assert told.code == 0, told.err


def spoil(host: HostReleases) -> None:
    """Have the fickle version not get ready any more."""
    sql(host, "INSERT INTO kit_rows (text) VALUES ('unfit')")


@pytest.mark.usefixtures("unfit")
def test_a_deploy_goes_on_where_the_one_before_it_does_not_get_ready(released: Released, fickle: Version) -> None:
    host = released.host
    serving = host.current
    for version in (None, released.other):
        assert host.prepare(fickle, switch=True).code == 0
        left = host.current
        assert left != serving
        spoil(host)
        told = host.deploy(version, current=left)
        assert host.record(left)["state"] == "failed"
        if version is None:
            # What was to be brought up again is not what serves.
            assert (told.code, told.json["code"], host.current) == (1, "changed_meanwhile", serving)
            assert f"Release {left}, which was to be brought up again, had been cut off" in told.json["problem"]
            demand_whole(host, serving, host.ask("/version"))
        else:
            assert told.code == 0, told.err
            demand_whole(host, told.json["release"], "two")
        sql(host, "DELETE FROM kit_rows WHERE text = 'unfit'")


@pytest.mark.usefixtures("unfit")
def test_why_a_release_was_left_is_told_though_the_earlier_one_does_not_come_back(
    released: Released, fickle: Version
) -> None:
    host = released.host
    assert host.deploy(fickle).code == 0
    earlier = host.current
    assert host.prepare(released.other, switch=True).code == 0
    spoil(host)
    told = host.phase("finish", problem="no style sheet", keep=5)
    assert (told.code, told.json["code"]) == (1, "not_ready")
    assert told.json["problem"].startswith("no style sheet")
    assert f"Release {earlier} could not be brought to serve again" in told.json["problem"]


def test_a_kill_between_the_two_links_of_a_switch_costs_no_request(released: Released) -> None:
    host = released.host
    serving = host.current
    assert host.prepare(released.other, switch=True).code == 0
    new = host.current
    # nginx follows the first link, and the second was never made.
    releases.switch(host.root, serving)
    with host.traffic().running() as load:
        time.sleep(0.5)
        told = host.engine("prune-backups", "--json")
        assert told.code == 0, told.err
        time.sleep(0.5)
    demand_served(traffic.summary(load.requests))
    demand_whole(host, new, "two")


def test_a_worker_that_does_not_start_costs_no_request_in_hand(released: Released) -> None:
    host = released.host
    serving, text = host.current, host.ask("/version")
    manifest = {"processes": {"worker": {"command": ["no-such-command"], "stop_grace_seconds": 5}}}
    release = {"commands": [["python", "kit_migrate.py"]]}
    version = host.version(
        "workless",
        manifest={**manifest, "release": release},
        variables={"release_bundle_drain_timeout_seconds": 1},
    )
    with host.traffic().running() as load:
        # It is still in hand when the worker fails.
        load.slow("/slow/20")
        told = host.deploy(version)
        time.sleep(0.5)
    assert told.code == 1
    assert "worker" in told.json["problem"]
    assert f"Release {serving} serves again" in told.json["problem"]
    demand_served(traffic.summary(load.requests))
    demand_whole(host, serving, text)


def test_a_rollback_needs_no_room_and_removes_nothing(released: Released) -> None:
    host = released.host
    for version in (released.good, released.other):
        assert host.deploy(version).code == 0
    serving = host.current
    target = next(one["id"] for one in host.engine("releases", "--json").json["releases"] if one["state"] == "good"
                  and one["id"] != serving)  # fmt: skip
    # As many good ones before it as an inventory may want kept.
    for number in range(8):
        older = f"20200101T00000{number}Z-v000"
        shutil.copytree(host.root / "releases" / target, host.root / "releases" / older)
        record = {**host.record(target), "id": older, "started": f"2020-01-01T00:00:0{number}Z"}
        (host.root / f"records/{older}.json").write_text(json.dumps(record))
    there = sorted(path.name for path in (host.root / "releases").iterdir())
    stack = host.root / "releases" / target / "stack.json"
    given = stack.read_text()
    told = json.loads(given)
    # No disk has as much free.
    told["limits"]["min_free_bytes"] = 2**60
    stack.write_text(json.dumps(told))
    try:
        done = host.rollback()
        assert done.code == 0, done.err
        assert host.current == target
    finally:
        stack.write_text(given)
    assert sorted(path.name for path in (host.root / "releases").iterdir()) == there
