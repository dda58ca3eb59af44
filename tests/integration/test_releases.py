"""Releases on the real engine, under traffic: no request fails, whatever becomes of the release."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from kit_engine import rollout
from support import host_releases, traffic
from support.engine_stack import docker
from support.host_releases import MIGRATE, HostReleases, Told, Version

pytestmark = pytest.mark.engine

# A release that answers with errors is given up within this; one that ends at once within less.
GIVEN_UP_SECONDS, ENDED_SECONDS = 10.0, 5.0
# Between two answers of a steady stream.
LONGEST_GAP_SECONDS = 1.0


@dataclass
class Fixture:
    """The host, with a first good release that serves."""

    host: HostReleases
    good: Version
    other: Version


@pytest.fixture(scope="module")
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fixture]:
    """A deploy root with one release; removed whatever happens."""
    host = host_releases.make(tmp_path_factory.mktemp("releases"))
    try:
        good = host.version("one")
        told = host.deploy(good)
        assert told.code == 0, told.err
        yield Fixture(host, good, host.version("two"))
    finally:
        host.remove()


def under_load(host: HostReleases, version: Version, *, problem: str = "") -> tuple[Told, traffic.Summary, float]:
    """Release a version while visitors come, one of whom asks for what takes long."""
    with host.traffic().running() as load:
        time.sleep(0.5)
        load.slow("/slow/8")
        begun = time.monotonic()
        told = host.deploy(version, problem=problem, backup=True)
        took = time.monotonic() - begun
        time.sleep(0.5)
    return told, traffic.summary(load.requests), took


def demand_served(seen: traffic.Summary) -> None:
    """Refuse a single failed request."""
    assert seen.failed == ()
    assert seen.count > 50
    assert seen.longest_gap < LONGEST_GAP_SECONDS


def demand_whole(host: HostReleases, serving: str, text: str) -> None:
    """Refuse anything left of another release than the one that serves."""
    assert host.current == serving
    assert host.ask("/version") == text
    assert {name: len(ids) for name, ids in host.containers().items()} == {"db": 1, "nginx": 1, "web": 1}
    assert [path.name for path in (host.root / "shared/run").iterdir() if path.name not in ("live", serving)] == []
    assert not (host.root / "records/pending.json").exists()


def test_a_release_takes_over_without_a_failed_request(fixture: Fixture) -> None:
    host = fixture.host
    before = host.containers()
    rows = int(host.ask("/rows"))
    told, seen, _ = under_load(host, fixture.other)
    assert told.code == 0, told.err
    demand_served(seen)
    demand_whole(host, told.json["release"], "two")
    # Nothing but the app's own containers changes with a release, and no row that was acknowledged is lost.
    after = host.containers()
    assert (after["db"], after["nginx"]) == (before["db"], before["nginx"])
    assert int(host.ask("/rows")) == rows + sum(one.method == "POST" for one in seen.requests)
    record = host.record(host.current)
    assert record["state"] == "good"
    assert record["backup"]["level"] == "read"
    manifest = json.loads((host.root / f"shared/backups/{record['backup']['id']}/manifest.json").read_text())
    assert manifest["bytes"] == record["backup"]["bytes"] > 0
    assert set(rollout.STEPS) == set(record["seconds"])


def test_an_unchanged_release_brought_up_again_changes_no_container(fixture: Fixture) -> None:
    host = fixture.host
    before, serving = host.containers(), host.current
    told = host.deploy(None)
    assert told.code == 0, told.err
    assert (host.containers(), host.current) == (before, serving)


BROKEN = {
    "does not start": ({"settings": "\nraise SystemExit(3)\n"}, "migrate", ENDED_SECONDS + 10),
    "migration raises": ({"migrate": "raise SystemExit('no such column')"}, "migrate", ENDED_SECONDS + 10),
    "answers with errors": (
        {"settings": "\nurlpatterns = [path('up', lambda request: HttpResponse('broken', status=500))]\n"},
        "not_ready",
        GIVEN_UP_SECONDS + 10,
    ),
    "ends when it serves": (
        {"settings": "\nimport os, sys\nif 'gunicorn' in sys.argv[0]: os._exit(3)\n"},
        "unhealthy",
        ENDED_SECONDS + 10,
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_release_leaves_the_old_one_serving(fixture: Fixture, what: str) -> None:
    host = fixture.host
    arguments, code, limit = BROKEN[what]
    version = host.version("broken", **arguments)  # type: ignore[arg-type]  # one mapping for all
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
    again = host.deploy(fixture.good if text == "two" else fixture.other)
    assert again.code == 0, again.err


def test_what_the_smoke_gate_refuses_goes_back(fixture: Fixture) -> None:
    host = fixture.host
    serving, text = host.current, host.ask("/version")
    told, seen, _ = under_load(host, fixture.good if text == "two" else fixture.other, problem="no style sheet")
    assert told.code == 1
    assert told.json["code"] == "smoke"
    assert "no style sheet" in told.json["problem"]
    assert f"Release {serving} serves again" in told.json["problem"]
    demand_served(seen)
    demand_whole(host, serving, text)


def test_back_and_forth_under_load(fixture: Fixture) -> None:
    host = fixture.host
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


def test_a_rollback_refuses_what_is_not_good(fixture: Fixture) -> None:
    host = fixture.host
    serving = host.current
    failed = next(one["id"] for one in host.engine("releases", "--json").json["releases"] if one["state"] == "failed")
    for wanted, words in (("20000101T000000Z-none", "no release"), (failed, "failed"), (serving, "serves already")):
        told = host.rollback(wanted)
        assert told.code == 1
        assert told.json["code"] == "rollback"
        assert words in told.json["problem"]
        assert "make releases ENV=prod" in told.json["next"]
    assert host.current == serving


def test_three_replicas_take_over_from_one_and_one_from_three(fixture: Fixture) -> None:
    host = fixture.host
    for replicas in (3, 1):
        version = host.version(f"{replicas} replicas", variables={"release_bundle_web_replicas": replicas})
        told, seen, _ = under_load(host, version)
        assert told.code == 0, told.err
        demand_served(seen)
        assert len(host.containers()["web"]) == replicas
        assert host.ask("/version") == f"{replicas} replicas"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", ["migrate", "healthy", "drain"])
def test_a_killed_release_is_recovered_by_the_next(fixture: Fixture, step: str, number: signal.Signals) -> None:
    host = fixture.host
    slow = MIGRATE + "import time; time.sleep(2)\n"
    version = host.version(f"killed at {step} {number}", migrate=slow)
    serving = host.current
    with host.traffic().running() as load:
        if step == "drain":
            load.slow("/slow/4")
            assert host.prepare(version).code == 0
            running = host.started("release", "--json", "--request", json.dumps({"phase": "switch"}))
            running.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        else:
            running = host.started(*host.prepare_words(version))
            running.stdin.write(host.archive(version))  # type: ignore[union-attr]  # it is a pipe
            running.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        wait_for_step(host, step)
        host_releases.kill_group(running, number)
        running.wait(30)
        switched = host.current != serving
        assert switched == (step == "drain")
        told = host.deploy(fixture.good)
        assert told.code == 0, told.err
    demand_served(traffic.summary(load.requests))
    demand_whole(host, told.json["release"], "one")


def wait_for_step(host: HostReleases, step: str) -> None:
    """Wait until the newest journal tells that a step has begun."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        journals = sorted((host.root / "records").glob("*.journal"))
        if journals and f'"step": "{step}", "event": "begin"' in journals[-1].read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} never began")


def test_retention_keeps_what_a_rollback_needs(fixture: Fixture) -> None:
    host = fixture.host
    for version in (fixture.good, fixture.other) * 4:
        assert host.deploy(version).code == 0
    kept = {path.name for path in (host.root / "releases").iterdir()}
    good = [one["id"] for one in host.engine("releases", "--json").json["releases"] if one["id"] in kept]
    assert len(good) <= 2 * 5 + 1
    assert host.rollback().code == 0
    images = docker("image", "ls", "--quiet", host.name).split()
    assert images
    assert subprocess.run(["docker", "volume", "inspect", f"{host.project}_postgres_data_prod"], check=False,
                          capture_output=True).returncode == 0  # fmt: skip


def test_a_changed_database_setting_wants_a_word(fixture: Fixture) -> None:
    host = fixture.host
    before = host.containers()
    limits = {"web": ["768m", 2.0, 256], "process": ["512m", 1.0, 128], "db": ["900m", 2.0, 256],
              "redis": ["192m", 0.5, 64], "nginx": ["128m", 1.0, 64]}  # fmt: skip
    given = {name: dict(zip(("memory", "cpus", "pids"), one, strict=True)) for name, one in limits.items()}
    version = host.version("more memory", variables={"release_bundle_limits": given})
    told = host.deploy(version)
    assert told.code == 1
    assert told.json["code"] == "restart_needed"
    assert "ALLOW_RESTART=db" in told.json["next"]
    assert host.containers() == before
    told = host.deploy(version, restarts=["db"])
    assert told.code == 0, told.err
    assert host.containers()["db"] != before["db"]
    assert host.record(host.current)["gaps"]["db"] > 0
