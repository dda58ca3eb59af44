"""Releases that fail, go back or change their number of containers, under traffic: no request fails by it."""

from __future__ import annotations

import time

import pytest
from support import traffic
from support.host_releases import BROKEN, Released, demand_served, demand_whole, given_up_after, under_load

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# How long it takes by the clock is for the bench, and so is a version that hangs.
REFUSED = [what for what in BROKEN if what != "hangs for ever"]


@pytest.mark.parametrize("what", REFUSED)
def test_a_broken_release_leaves_the_old_one_serving(released: Released, what: str) -> None:
    host = released.host
    arguments, code, words = BROKEN[what]
    version = host.version("broken", **arguments)  # type: ignore[arg-type]  # texts all
    serving, text = host.current, host.ask("/version")
    told, seen = under_load(host, version)
    assert told.code == 1
    assert told.json["code"] == code, told.json
    assert words in told.json["problem"]
    demand_served(seen)
    demand_whole(host, serving, text)
    (failed,) = [one for one in host.engine("releases", "--json").json["releases"] if one["state"] == "failed"][:1]
    assert failed["reason"]
    # What is certain to fail is given up long before ready_timeout_seconds.
    journal = host.root / f"records/{failed['id']}.journal"
    assert 0 < given_up_after(journal.read_text()) < 45
    # And what is good works after it.
    again = host.deploy(released.good if text == "two" else released.other)
    assert again.code == 0, again.err


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
    for wanted, words in (("20000101T000000Z-none", "no release"), (failed, "failed")):
        told = host.rollback(wanted)
        assert told.code == 1
        assert told.json["code"] == "rollback"
        assert words in told.json["problem"]
        assert "make releases ENV=prod" in told.json["next"]
    assert host.current == serving


def test_a_rollback_to_what_serves_has_nothing_to_do(released: Released) -> None:
    host = released.host
    serving, text = host.current, host.ask("/version")
    told = host.rollback(serving)
    assert told.code == 0, told.err
    assert (told.json["changed"], told.json["message"]) == (False, f"release {serving} serves already")
    told = host.phase("prepare", rollback=serving, switch=True)
    assert (told.json["stands"], "switched" in told.json) == (True, False)
    assert "stack.json" in told.json["files"]
    demand_whole(host, serving, text)


def test_a_rollback_that_was_cut_off_is_completed_by_the_next_and_goes_no_further(released: Released) -> None:
    host = released.host
    for version in (released.good, released.other):
        assert host.deploy(version).code == 0
    serving = host.current
    assert host.phase("prepare", rollback="", switch=True).code == 0
    target, text = host.current, host.ask("/version")
    assert target != serving
    # Nobody ends it, and somebody types the command once more.
    told = host.rollback()
    assert told.code == 0, told.err
    assert (told.json["changed"], told.json["release"]) == (True, target)
    assert "was completed" in told.json["message"]
    assert host.record(serving)["state"] == "rolled_back"
    demand_whole(host, target, text)


def test_three_replicas_take_over_from_one_and_one_from_three(released: Released) -> None:
    host = released.host
    for replicas in (3, 1):
        version = host.version(f"{replicas} replicas", variables={"release_bundle_web_replicas": replicas})
        told, seen = under_load(host, version)
        assert told.code == 0, told.err
        demand_served(seen)
        assert len(host.containers()["web"]) == replicas
        assert host.ask("/version") == f"{replicas} replicas"
