"""What a release that is interrupted waits for, before anything of it is removed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kit_engine import edge, hooks, one_off, preflight, prepare, release, release_commands, rollout, signals, stack
from kit_engine.docker import Docker
from kit_engine.report import Report
from support.kit import ROOT


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
    # The second one comes while that is waited for.
    ends = [threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM)) for seconds in (0.5, 0.9)]
    with signals.taken():
        for one in ends:
            one.start()
        with pytest.raises(signals.Interrupted):
            rollout.ready_for(docker, report, wanted, rollout.Prepared())
        for one in ends:
            one.join()
    assert created.is_set()
