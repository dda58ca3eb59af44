"""Refuse to take what was emptied for what is to be kept: each such backup would push a good one out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from kit_engine.errors import EngineError
from kit_engine.report import Report
from kit_engine.stack import Stack

# Of fewer, nearly all may well go in a day: those of a project that has just begun, or of a try.
FEW_ROWS = 1_000
FEW_FILES = 100
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


def are_files_lost(before: Optional[Mapping[str, Any]], media: Optional[Mapping[str, Any]]) -> bool:
    """Whether nearly all media files are gone.

    Args:
        before: what the backup before says of them (``media`` of its manifest); None where it has none in a volume.
        media: the same of the new one.

    Returns:
        Whether there were any and the volume is gone, or there were more than :data:`FEW_FILES` and more than
        :data:`MOST_LOST_PERCENT` of them are.
    """
    had = int((before or {}).get("files", 0))
    if media is None:
        return had > 0
    return had > FEW_FILES and int(media["files"]) * 100 < had * (100 - MOST_LOST_PERCENT)


def judge(
    stack: Stack, report: Report, before: Optional[Mapping[str, Any]], facts: Mapping[str, Any], *, meant: bool
) -> None:
    """Compare what was dumped and copied with the newest good backup.

    Args:
        stack: whose.
        report: where it is told of a backup that is meant.
        before: manifest of that one; None where there is none.
        facts: what the manifest of the new one will say.
        meant: whether somebody asked for just this one: it is made all the same, and later ones are compared with it.

    Raises:
        EngineError: nearly all is gone, and it is not meant.
    """
    if before is None:
        return
    known, files = before.get("rows") or {}, before.get("media")
    lost = {}
    if is_lost(known, facts["rows"]):
        lost["rows"] = f"The database has {figures(facts['rows'])}; backup {before['id']} of it had {figures(known)}."
    if are_files_lost(files, facts.get("media")):
        found = media_figures(facts.get("media"))
        lost["media files"] = f"The site has {found}; backup {before['id']} of it had {media_figures(files)}."
    if not lost:
        return
    said = " ".join(lost.values())
    if meant:
        report.say(f"    warning: {said} It is backed up as it is; later backups are compared with this one")
        return
    back = stack.make("restore", f"BACKUP={before['id']}")
    raise EngineError(
        "backup",
        f"{said} Was it emptied, or is it another one? A backup of it would in time push out those that have the "
        f"{' and '.join(lost)}, so none was made. Nothing was changed.",
        f"{back}    (brings them back), or, where this is meant: {stack.make('backup')}    (then repeat this)",
    )


def figures(rows: Mapping[str, int]) -> str:
    """Write how many rows a backup has."""
    return f"{sum(rows.values()):,} rows in {len(rows)} tables"


def media_figures(media: Optional[Mapping[str, Any]]) -> str:
    """Write how many media files a backup has."""
    return f"{media['files']:,} media files, {media['bytes'] / 2**20:.1f} MiB" if media else "no media volume"
