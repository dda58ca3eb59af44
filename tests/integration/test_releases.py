"""Releases on the real engine, under traffic: no request fails, whatever becomes of the release."""

from __future__ import annotations

import json
import time

import pytest
from kit_engine import rollout
from support import traffic
from support.host_releases import BROKEN, Released, demand_served, demand_whole, under_load

pytestmark = pytest.mark.engine

# A release that answers with errors is given up within this; one that ends at once within less.
GIVEN_UP_SECONDS, ENDED_SECONDS = 10.0, 5.0


def test_a_release_takes_over_without_a_failed_request(released: Released) -> None:
    host = released.host
    before = host.containers()
    rows = int(host.ask("/rows"))
    told, seen, _ = under_load(host, released.other)
    assert told.code == 0, told.err
    demand_served(seen)
    demand_whole(host, told.json["release"], "two")
    # Nothing but the app's own containers changes with a release, and no row that was acknowledged is lost.
    after = host.containers()
    assert (after["db"], after["nginx"]) == (before["db"], before["nginx"])
    assert int(host.ask("/rows")) == rows + sum(one.method == "POST" for one in seen.requests)
    record = host.record(host.current)
    assert record["state"] == "good"
    assert record["backup"]["level"] == "restore"
    manifest = json.loads((host.root / f"shared/backups/{record['backup']['id']}/manifest.json").read_text())
    assert manifest["bytes"] == record["backup"]["bytes"] > 0
    assert set(rollout.STEPS) == set(record["seconds"])


def test_an_unchanged_release_brought_up_again_changes_no_container(released: Released) -> None:
    host = released.host
    before, serving = host.containers(), host.current
    told = host.deploy(None)
    assert told.code == 0, told.err
    assert (host.containers(), host.current) == (before, serving)


# Of the whole release, with its backup and migration, on a machine that has other work too; by the clock it is for the
# bench, and so is a version that hangs.
PATIENCE_SECONDS = 20
LIMITS = {
    "does not start": ENDED_SECONDS + PATIENCE_SECONDS,
    "migration raises": ENDED_SECONDS + PATIENCE_SECONDS,
    "answers with errors": GIVEN_UP_SECONDS + PATIENCE_SECONDS,
    "ends when it serves": ENDED_SECONDS + PATIENCE_SECONDS,
}


@pytest.mark.parametrize("what", LIMITS)
def test_a_broken_release_leaves_the_old_one_serving(released: Released, what: str) -> None:
    host = released.host
    arguments, code = BROKEN[what]
    limit = LIMITS[what]
    version = host.version("broken", **arguments)  # type: ignore[arg-type]  # texts all
    serving, text = host.current, host.ask("/version")
    told, seen, took = under_load(host, version)
    assert told.code == 1
    assert told.json["code"] == code, told.json
    assert took < limit
    demand_served(seen)
    demand_whole(host, serving, text)
    (failed,) = [one for one in host.engine("releases", "--json").json["releases"] if one["state"] == "failed"][:1]
    assert failed["reason"]
    # And what is good works after it.
    again = host.deploy(released.good if text == "two" else released.other)
    assert again.code == 0, again.err


def test_what_the_smoke_gate_refuses_goes_back(released: Released) -> None:
    host = released.host
    serving, text = host.current, host.ask("/version")
    told, seen, _ = under_load(host, released.good if text == "two" else released.other, problem="no style sheet")
    assert told.code == 1
    assert told.json["code"] == "smoke"
    assert "no style sheet" in told.json["problem"]
    assert f"Release {serving} serves again" in told.json["problem"]
    demand_served(seen)
    demand_whole(host, serving, text)


def test_back_and_forth_under_load(released: Released) -> None:
    host = released.host
    left, text = host.current, host.ask("/version")
    with host.traffic().running() as load:
        time.sleep(0.5)
        told = host.rollback()
        assert told.code == 0, told.err
        assert host.ask("/version") != text
        assert host.record(left)["state"] == "rolled_back"
        # Never again by itself, but when it is named.
        assert left not in (host.rollback().json.get("release"), host.current)
        told = host.rollback(left)
        assert told.code == 0, told.err
        time.sleep(0.5)
    demand_served(traffic.summary(load.requests))
    demand_whole(host, left, text)


def test_a_rollback_refuses_what_is_not_good(released: Released) -> None:
    host = released.host
    serving = host.current
    failed = next(one["id"] for one in host.engine("releases", "--json").json["releases"] if one["state"] == "failed")
    for wanted, words in (("20000101T000000Z-none", "no release"), (failed, "failed"), (serving, "serves already")):
        told = host.rollback(wanted)
        assert told.code == 1
        assert told.json["code"] == "rollback"
        assert words in told.json["problem"]
        assert "make releases ENV=prod" in told.json["next"]
    assert host.current == serving


def test_three_replicas_take_over_from_one_and_one_from_three(released: Released) -> None:
    host = released.host
    for replicas in (3, 1):
        version = host.version(f"{replicas} replicas", variables={"release_bundle_web_replicas": replicas})
        told, seen, _ = under_load(host, version)
        assert told.code == 0, told.err
        demand_served(seen)
        assert len(host.containers()["web"]) == replicas
        assert host.ask("/version") == f"{replicas} replicas"
