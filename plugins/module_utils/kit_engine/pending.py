"""What is under way on this host: one file, there from the first change of a release or rollback to its last.

Whoever holds the host's lock and finds one that is not its own knows that a run was cut off, where, and what served
before it.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

from kit_engine import releases

NAME = "pending.json"
DEPLOY, ROLLBACK, RESTORE = "deploy", "rollback", "restore"


@dataclass(frozen=True)
class Pending:
    """A release that is on its way.

    Attributes:
        id: of the release.
        kind: ``deploy``, ``rollback`` or ``restore``.
        previous: id of the release that served before; empty where none did.
    """

    id: str
    kind: str
    previous: str


def read(root: Path) -> Optional[Pending]:
    """Tell what is under way; None where nothing is."""
    try:
        return Pending(**json.loads(_path(root).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def begin(root: Path, pending: Pending) -> None:
    """Note what begins, before anything of it is done."""
    releases.replace(_path(root), json.dumps(asdict(pending)) + "\n")


def begun(root: Path) -> str:
    """Tell when what is under way began, in UTC as Docker writes it, to the second; empty where nothing is."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(_path(root).stat().st_mtime))
    except OSError:
        return ""


def end(root: Path) -> None:
    """Note that all of it is done, or undone."""
    _path(root).unlink(missing_ok=True)
    releases.sync_folder(root / releases.RECORDS)


def _path(root: Path) -> Path:
    return root / releases.RECORDS / NAME
