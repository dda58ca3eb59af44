"""A host that is judged while another command changes it, and locked once that has ended."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from kit_control import engine_call, host_lock
from support.actions import action

TASK = {
    "root": "/srv/site", "python": "python3", "stack": {"name": "site", "env": "prod"}, "images": [], "gate": False,
    "configuration": "wanted", "lock": {"command": "make deploy", "wait": 60, "ahead": False},
}  # fmt: skip


def judged(folder: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, *, waited: bool) -> dict[str, Any]:
    """What the task tells of a host whose configuration is another one once the lock is had."""
    now = [before]

    def call(*_: object) -> dict[str, Any]:
        there = {"serves": True, "configuration": now[0], "id": f"release-{now[0]}"}
        return {"time": time.time(), "current": there, "images": {"images": {}}}

    def take(*_: object) -> dict[str, Any]:
        now[0] = after
        return {"changed": False, "token": "t", "waited": waited}

    monkeypatch.setattr(engine_call, "call", call)
    monkeypatch.setattr(host_lock, "take", take)
    made = action("kit_preflight", folder, TASK)
    monkeypatch.setattr(made, "say", lambda _text: None)
    return made.work()


def test_what_was_judged_before_the_wait_is_judged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = judged(tmp_path, monkeypatch, "old", "another", waited=True)
    assert (told["current"]["id"], told["stands"], told["lock"]["token"]) == ("release-another", False, "t")


def test_the_one_that_was_waited_for_may_have_brought_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = judged(tmp_path, monkeypatch, "old", "wanted", waited=True)
    assert (told["stands"], told["release"]) == (True, "release-wanted")


def test_without_a_wait_it_is_judged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = judged(tmp_path, monkeypatch, "old", "another", waited=False)
    assert (told["current"]["id"], told["lock"]["token"]) == ("release-old", "t")


def test_where_it_serves_already_nothing_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = judged(tmp_path, monkeypatch, "wanted", "wanted", waited=False)
    assert told["stands"]
    assert "lock" not in told
