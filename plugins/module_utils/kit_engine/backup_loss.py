"""Refuse to take a database that was emptied for one to keep: each such backup would push a good one out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from kit_engine.errors import EngineError
from kit_engine.report import Report
from kit_engine.stack import Stack

# Of fewer, nearly all may well go in a day: those of a project that has just begun, or of a try.
FEW_ROWS = 1_000
# Of more, nobody means to lose so much between two backups; old sessions and logs that are cleared away are less.
MOST_LOST_PERCENT = 90


def is_lost(before: Mapping[str, int], rows: Mapping[str, int]) -> bool:
    """Whether nearly all is gone.

    Args:
        before: rows by table, as the backup before has them.
        rows: as the new one has them.

    Returns:
        Whether there were tables and none is left, or there were more than :data:`FEW_ROWS` rows and more than
        :data:`MOST_LOST_PERCENT` of them are gone.
    """
    had = sum(before.values())
    few = sum(rows.values()) * 100 < had * (100 - MOST_LOST_PERCENT)
    return bool(before) and (not rows or (had > FEW_ROWS and few))


def judge(
    stack: Stack, report: Report, before: Optional[Mapping[str, Any]], rows: Mapping[str, int], *, meant: bool
) -> None:
    """Compare what was dumped with the newest good backup.

    Args:
        stack: whose.
        report: where it is told of a backup that is meant.
        before: manifest of that one; None where there is none.
        rows: by table, of the new one.
        meant: whether somebody asked for just this one: it is made all the same, and later ones are compared with it.

    Raises:
        EngineError: nearly all is gone, and it is not meant.
    """
    known = (before or {}).get("rows") or {}
    if before is None or not is_lost(known, rows):
        return
    said = f"The database has {figures(rows)}; backup {before['id']} of it had {figures(known)}."
    if meant:
        report.say(f"    warning: {said} It is backed up as it is; later backups are compared with this one")
        return
    back = stack.make("restore", f"BACKUP={before['id']}")
    raise EngineError(
        "backup",
        f"{said} Was it emptied, or is it another one? A backup of it would in time push out those that have the rows, "
        "so none was made. Nothing was changed.",
        f"{back}    (brings the rows back), or, where this is meant: {stack.make('backup')}    (then repeat this)",
    )


def figures(rows: Mapping[str, int]) -> str:
    """Write how many rows a backup has."""
    return f"{sum(rows.values()):,} rows in {len(rows)} tables"
