"""Signals that end a verb: as an exception where it stands, or later where ending there would do harm."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Optional

# A terminal that is closed, Ctrl-C, and what a session sends its steps when the control node is lost.
ENDING: tuple[int, ...] = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal asked the verb to end."""


class _State:
    """Of this process; handlers have no other place."""

    deferred = 0
    pending: Optional[int] = None


@contextmanager
def taken() -> Iterator[None]:
    """Have the signals end a verb by :class:`Interrupted`; those that our caller ignores (nohup) stay ignored.

    Raises:
        Interrupted: in the main thread, wherever it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, _ended)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Put signals off while something runs that is unsafe to end midway; one that fails ends by its own error.

    Raises:
        Interrupted: at its end, where a signal came meanwhile.
    """
    _State.deferred += 1
    try:
        yield
    except BaseException:
        _State.deferred -= 1
        if not _State.deferred:
            _State.pending = None
        raise
    _State.deferred -= 1
    if not _State.deferred and _State.pending is not None:
        number, _State.pending = _State.pending, None
        raise Interrupted(signal.Signals(number).name)


def deferring() -> bool:
    """Whether signals are put off: a program started now must not get the terminal's Ctrl-C either."""
    return _State.deferred > 0


def pending() -> bool:
    """Whether one came that was put off."""
    return _State.pending is not None


def _ended(number: int, _frame: Optional[FrameType]) -> None:
    if _State.deferred:
        _State.pending = number
        return
    raise Interrupted(signal.Signals(number).name)


def runs(pid: int) -> bool:
    """Tell whether a process of that number runs, asked of the kernel itself: a control node may have no /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
