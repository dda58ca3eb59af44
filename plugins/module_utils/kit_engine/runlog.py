"""What is kept of a release's runs beside its record: a journal of the steps, and a log of what people were told."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Optional

from kit_engine import masking, releases
from kit_engine.docker import Docker
from kit_engine.releases import Record
from kit_engine.report import Report

JOURNAL, LOG = "journal", "log"


def path_of(root: Path, release: str, kind: str = LOG) -> Path:
    """Name the file of a release: its ``log`` or its ``journal``."""
    return root / releases.RECORDS / f"{release}.{kind}"


def follow(docker: Docker, report: Report, what: str) -> None:
    """Have a run noted from here on: each step as it begins and ends, on the disk before it acts, and each line.

    Args:
        docker: the release; its secrets are taken out of all that is told from now on.
        report: of the run.
        what: what the run does, such as ``deploy: prepare``.
    """
    take_up(docker, report)
    report.log(f"--- {what}\n")


def take_up(docker: Docker, report: Report) -> None:
    """Have what is told from here on noted with an earlier run, such as one that was cut off, as :func:`follow` does.

    Args:
        docker: the release of that run.
        report: of the verb that found it.
    """
    root, release = docker.stack.root, docker.stack.release
    report.mask = masking.of(docker)
    report.note = _journal(path_of(root, release, JOURNAL))
    report.log = _log(path_of(root, release))


def warn(root: Path, report: Report, record: Optional[Record], problem: str) -> None:
    """Tell what went wrong and did not matter to a release, and note it in its record.

    Args:
        root: the deploy root.
        report: where it is told.
        record: of the release, and written; None where it has none.
        problem: what went wrong.
    """
    report.say(f"    warning: {problem}")
    if record:
        record.warnings.append(problem)
        releases.write(root, record)


def _journal(path: Path) -> Callable[[str, str], None]:
    def note(step: str, event: str) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 3), "step": step, "event": event}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    return note


def _log(path: Path) -> Callable[[str], None]:
    # Containers' last words are quoted in it, and those may speak of people.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    size = os.fstat(descriptor).st_size
    # A run that was cut off left half a line.
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.write(descriptor, b"\n")
    begins = True

    def log(text: str) -> None:
        nonlocal begins
        for line in text.splitlines(keepends=True):
            head = f"{releases.now()} " if begins else ""
            os.write(descriptor, f"{head}{line}".encode("utf-8", "backslashreplace"))
            begins = line.endswith("\n")

    return log
