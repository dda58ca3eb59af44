"""What is asked of systemd, where it is the host's PID 1."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kit_engine import command, releases
from kit_engine.errors import EngineError
from kit_engine.report import Report
from kit_engine.stack import Stack

UNITS = Path("/etc/systemd/system")
# There only where systemd is PID 1.
RUNS = Path("/run/systemd/system")


def runs() -> bool:
    """Whether systemd is PID 1."""
    return RUNS.is_dir() and shutil.which("systemctl") is not None


def call(stack: Stack, *words: str) -> None:
    """Have systemd do something.

    Args:
        stack: whose units are meant.
        words: of systemctl.

    Raises:
        EngineError: it refuses.
    """
    remedy = f"mend it, then: ./docker-manage.sh {stack.env} schedule"
    command.demand(["systemctl", *words], code="schedule", remedy=remedy)


def write(files: Mapping[str, str]) -> bool:
    """Write units; gives whether any was another before, and systemd has to read them.

    Args:
        files: their text by name.
    """
    paths = {UNITS / name: text for name, text in files.items()}
    if all(path.is_file() and path.read_text(encoding="utf-8") == text for path, text in paths.items()):
        return False
    for path, text in paths.items():
        releases.replace(path, text)
        path.chmod(0o644)
    return True


@contextmanager
def told(report: Report, what: str) -> Iterator[None]:
    """Have what hinders be told: no release hangs on a unit.

    Args:
        report: where.
        what: did not come about then.
    """
    try:
        yield
    except (EngineError, OSError) as error:
        report.say(f"    warning: {what}: {error}")
