"""What a boot in the middle of a release runs."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from kit_engine import cli, lock, pending, recovery
from kit_engine.pending import DEPLOY, Pending
from support.released_host import ONE, Host


def test_a_boot_makes_a_first_deploy_whole_that_was_cut_off(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lock, "FOLDER", host.root)
    host.release(ONE, state="running")
    pending.begin(host.root, Pending(ONE, DEPLOY, ""))
    held = lock.take(lock.place_of(host.root), lock.owner("make deploy", "a@b"))
    words = ["--root", str(host.root), "--env", "prod", "recover"]
    # A deploy that came first makes it whole itself.
    assert cli.main(words) == 1
    assert "make deploy" in capsys.readouterr().err
    os.close(held)
    assert cli.main(words) == 0
    assert capsys.readouterr().out == f"the run was cut off before release {ONE} served\n"
    assert host.record(ONE).state == "abandoned"
    # Nothing is to be done any more.
    assert cli.main(words) == 0
    assert capsys.readouterr().out == "Nothing is under way.\n"


def test_what_compose_had_half_made_goes_first(host: Host) -> None:
    host.release(ONE)
    pending.begin(host.root, Pending(ONE, DEPLOY, ""))
    host.has("worker")
    name = "traffic-prod-worker-1"
    for made, state in ((f"0123456789ab_{name}", "created"), (f"0123456789ab_{name}", "running"), (name, "created")):
        host.there.append(replace(host.there[0], id=f"{made} {state}", name=made, state=state))
    recovery.recover(host.root)
    assert host.done[0] == f"remove 0123456789ab_{name} created"
    assert not [one for one in host.done if "0123456789ab_" in one and "running" in one]
