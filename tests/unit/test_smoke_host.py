"""What the smoke checks of a host find, told by what such a host tells."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kit_engine import backup_schedule, stack, systemd
from smoke import test_host
from support.kit import ROOT


def scheduled(
    folder: Path, monkeypatch: pytest.MonkeyPatch, last: dict[str, Any], active: str = "active", lost: float = 0.0
) -> None:
    """Check a host on which the timers ran so, each installed."""
    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    found = stack.read(data, folder, folder)
    path = folder / backup_schedule.RECORD
    path.parent.mkdir()
    path.write_text(json.dumps(last))
    monkeypatch.setattr(systemd, "runs", lambda: True)
    monkeypatch.setattr(backup_schedule, "_shown", lambda _: {"ActiveState": active})
    monkeypatch.setattr(backup_schedule, "_lost", lambda _, timer: lost if timer.what == "drill" else 0.0)
    told = backup_schedule.state(found)
    assert told is not None
    target: Any = SimpleNamespace(stack=data)
    checked: Any = SimpleNamespace(facts={"schedule": told})
    test_host.test_backups_are_made_on_schedule(target, checked)


def ended(problem: str = "") -> dict[str, Any]:
    """How a run ended."""
    return {"begun": 1.0, "ended": 2.0, "ok": not problem, "backup": "", "problem": problem}


@pytest.mark.parametrize("last", [{}, {"backup": ended(), "drill": ended()}])
def test_backups_on_schedule_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: dict[str, Any]) -> None:
    scheduled(tmp_path, monkeypatch, last)


@pytest.mark.parametrize("what", ["backup", "drill"])
def test_a_scheduled_run_that_failed_last_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    last = {"backup": ended(), "drill": ended(), what: ended("The disk is full.")}
    with pytest.raises(AssertionError, match=f"the last scheduled {what} failed: The disk is full"):
        scheduled(tmp_path, monkeypatch, last)


def test_a_timer_that_was_stopped_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="missing or stopped; on the host: "):
        scheduled(tmp_path, monkeypatch, {}, active="inactive")


def test_a_timer_that_rang_in_vain_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="the timer of the drill rang last, and nothing came of it"):
        scheduled(tmp_path, monkeypatch, {"backup": ended(), "drill": ended()}, lost=5.0)
