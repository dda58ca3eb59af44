"""Releases on the real engine, under traffic: no request fails, whatever becomes of the release."""

from __future__ import annotations

import json

import pytest
from kit_engine import rollout
from support.host_releases import Released, demand_served, demand_whole, under_load

pytestmark = pytest.mark.engine


def test_a_release_takes_over_without_a_failed_request(released: Released) -> None:
    host = released.host
    before = host.containers()
    rows = int(host.ask("/rows"))
    told, seen = under_load(host, released.other)
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


def test_what_the_smoke_gate_refuses_goes_back(released: Released) -> None:
    host = released.host
    serving, text = host.current, host.ask("/version")
    told, seen = under_load(host, released.good if text == "two" else released.other, problem="no style sheet")
    assert told.code == 1
    assert told.json["code"] == "smoke"
    assert "no style sheet" in told.json["problem"]
    assert f"Release {serving} serves again" in told.json["problem"]
    demand_served(seen)
    demand_whole(host, serving, text)
