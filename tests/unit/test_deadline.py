"""What is done when something takes too long, and what a signal at the wrong moment leaves of that."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
from kit_engine import deadline, streams
from support.engine_stack import PACKAGES

# As a signal does that comes while the thread starts.
CUT_OFF = """
import threading
from kit_engine import deadline

start = threading.Thread.start

def cut_off(self):
    start(self)
    raise KeyboardInterrupt

threading.Thread.start = cut_off
threading.Timer.cancel = lambda self: None
with deadline.after(60, print):
    pass
"""


def test_it_is_done_when_that_takes_too_long_and_else_not() -> None:
    late = threading.Event()
    with deadline.after(0.01, late.set):
        assert late.wait(10)
    late.clear()
    with deadline.after(0.2, late.set):
        pass
    assert not late.wait(0.5)


def test_nobody_waits_for_one_that_a_signal_has_met() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CUT_OFF], env={"PYTHONPATH": str(PACKAGES)}, capture_output=True, timeout=20, check=False
    )
    assert b"KeyboardInterrupt" in done.stderr


def test_a_program_is_ended_where_a_signal_comes_as_its_time_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    begin, begun = subprocess.Popen, []

    def note(*words: Any, **more: Any) -> Any:
        begun.append(begin(*words, **more))
        return begun[0]

    def cut_off(_: threading.Thread) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", note)
    monkeypatch.setattr(threading.Thread, "start", cut_off)
    with pytest.raises(KeyboardInterrupt), streams.open_to(["sleep", "30"], 60):
        pass
    assert begun[0].wait(20) == -signal.SIGKILL
