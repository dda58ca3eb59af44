"""Verbs of the engine on the control node itself, in a fork of the task's process: no Python is started for them."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit_engine import session_calls

# Often enough to look live.
LOOK_SECONDS = 0.2


def can() -> bool:
    """Tell whether this system has what that takes: Linux has, but for old kernels and some containers."""
    try:
        os.close(os.pidfd_open(os.getpid()))
        os.close(os.memfd_create("kit-can"))
    except (AttributeError, OSError):
        return False
    return Path("/proc/self/fd").is_dir()


def run(words: list[str], content: bytes, show: Callable[[str], None]) -> dict[str, Any]:
    """Run a verb; it is ended where this is.

    Args:
        words: the verb's command line.
        content: its standard input.
        show: is called with what it tells of itself.

    Returns:
        ``rc``, ``stdout`` and ``stderr``, as Ansible's connections give them.
    """
    files = session_calls.Files(words, content)
    pid = os.fork()
    if pid == 0:
        session_calls.be(files.descriptors)
    ended = os.pidfd_open(pid)
    try:
        while not select.select([ended], [], [], LOOK_SECONDS)[0]:
            show(files.progress())
    except BaseException:
        # Such as the task's time limit: the verb ends what it has started. A job in the background ignores Ctrl-C.
        os.kill(pid, signal.SIGTERM)
        raise
    finally:
        os.close(ended)
        _, status = os.waitpid(pid, 0)
        show(files.progress())
        printed = files.printed()
    return {"rc": os.waitstatus_to_exitcode(status), "stdout": printed["out"], "stderr": printed["err"]}
