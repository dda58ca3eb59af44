"""What a release that is interrupted waits for, before anything of it is removed."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from kit_engine import edge, hooks, one_off, preflight, prepare, release, release_commands, rollout, stack
from kit_engine.docker import Docker
from kit_engine.report import Report
from support.kit import ROOT


class _StopError(Exception):
    """As a signal that is taken."""


@pytest.mark.parametrize("commands", [True, False])
def test_containers_that_are_being_created_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: bool
) -> None:
    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    docker = Docker(stack.read(data, tmp_path, tmp_path / "releases/two"))
    created = threading.Event()

    def create(_docker: Docker) -> None:
        time.sleep(1.5)
        created.set()

    @contextmanager
    def waiting(_docker: Docker) -> Iterator[one_off.Waiting]:
        yield one_off.Waiting.__new__(one_off.Waiting)

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _StopError

    monkeypatch.setattr(rollout, "_create_web", create)
    monkeypatch.setattr(rollout, "_ask_database", lambda _docker, **_more: [])
    monkeypatch.setattr(rollout, "_backing", lambda *_: {})
    monkeypatch.setattr(rollout, "_allowed", lambda *_: set())
    monkeypatch.setattr(rollout, "_start_web", lambda _docker: pytest.fail("it was interrupted before"))
    monkeypatch.setattr(release, "publish_static", lambda *_: None)
    monkeypatch.setattr(preflight, "check", lambda _docker: [])
    monkeypatch.setattr(prepare, "folders", lambda _stack: None)
    monkeypatch.setattr(prepare, "secrets", lambda *_, **_more: False)
    monkeypatch.setattr(edge, "stage", lambda *_: False)
    monkeypatch.setattr(hooks, "demand", lambda *_: None)
    monkeypatch.setattr(one_off, "waiting", waiting)
    monkeypatch.setattr(release_commands, "run", lambda *_: None)
    docker._configuration = {"services": {}}
    report = Report("release", False)
    wanted = rollout.Wanted(commands=commands)
    report.names = wanted.steps(docker)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(_StopError):
            rollout.ready_for(docker, report, wanted, rollout.Prepared())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert created.is_set()
