"""What was found of a backup after it was made: a file beside its manifest, which itself stays as it was sealed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kit_engine import releases, verification

FILE = "checked.json"


def noted(folder: Path) -> dict[str, Any]:
    """Read what was noted of a backup.

    Args:
        folder: of the backup.

    Returns:
        ``level``, ``verified``, ``restored`` and ``problem``, as ``backup.listed`` gives them; nothing where nothing
        was noted.
    """
    try:
        told = json.loads((folder / FILE).read_text(encoding="utf-8"))
        found = {name: told[name] for name in ("level", "verified", "problem")}
        # Earlier kits noted one time, and the level that was ever reached.
        found["restored"] = told.get("restored", told["verified"] if told["level"] == verification.RESTORE else 0.0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return found


def good(folder: Path, told: Mapping[str, Any], level: str) -> None:
    """Note that a backup was shown to be good.

    Args:
        folder: of the backup.
        told: its manifest as ``backup.listed`` gives it.
        level: that it reached now.
    """
    now = round(time.time(), 3)
    reached = max(level, str(told["level"]), key=verification.LEVELS.index)
    restored = now if level == verification.RESTORE else told["restored"]
    _write(folder, {"level": reached, "verified": now, "restored": restored, "problem": ""})


@contextmanager
def judged(folder: Path, told: Mapping[str, Any]) -> Iterator[None]:
    """Note of a backup what is found to be wrong with it within the block; such a one is never the newest good one.

    Args:
        folder: of the backup; one that does not lie on this host has no note.
        told: its manifest as ``backup.listed`` gives it.

    Raises:
        EngineError: as within the block; only a DamagedError is the backup's own.
    """
    try:
        yield
    except verification.DamagedError as error:
        if folder.is_dir():
            kept = {name: told[name] for name in ("level", "verified", "restored")}
            _write(folder, {**kept, "problem": error.problem.splitlines()[0].rstrip(":")})
        raise


def _write(folder: Path, told: Mapping[str, Any]) -> None:
    path = folder / FILE
    releases.replace(path, json.dumps(told) + "\n")
    path.chmod(0o600)
