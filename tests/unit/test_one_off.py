"""A container for release commands goes, whenever a release is told to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from kit_engine import command, one_off, signals, stack
from kit_engine.docker import Docker
from support.kit import ROOT


@pytest.mark.parametrize("moment", ["starts", "started", "removed"])
def test_whenever_it_is_ended_the_container_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    docker = Docker(stack.read(data, tmp_path, tmp_path / "releases/one"))
    done: list[str] = []

    def end(when: str) -> None:
        if when == moment:
            os.kill(os.getpid(), signal.SIGTERM)
        done.append(when)

    def begin(*_: object) -> subprocess.Popen[bytes]:
        starting = subprocess.Popen(["true"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        end("starts")
        return starting

    def run(words: list[str]) -> command.Done:
        assert words[:3] == ["docker", "rm", "--force"]
        end("removed")
        return command.Done(0, "", "")

    monkeypatch.setattr(command, "begin", begin)
    monkeypatch.setattr(command, "run", run)
    with signals.taken(), pytest.raises(signals.Interrupted), one_off.waiting(docker):
        end("started")
    assert done[-1] == "removed"
