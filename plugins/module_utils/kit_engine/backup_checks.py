"""Show later that a backup is still good."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Optional

from kit_engine import (
    backup,
    backup_notes,
    backup_offsite,
    backup_room,
    external,
    jobs,
    media_away,
    restore,
    throw_away,
    verification,
)
from kit_engine.docker import Container, Docker
from kit_engine.report import Report
from kit_engine.stack import Database
from kit_engine.verification import CHECKSUM, RESTORE


def verify(docker: Docker, report: Report, found: Mapping[str, Any], level: str = "") -> tuple[str, str]:
    """Verify a backup, and note what was found.

    Args:
        docker: the stack's containers; its own database runs.
        report: where progress is told.
        found: the backup's manifest.
        level: how far; empty: as far as the environment says.

    Returns:
        The level that it reached, and why it is a lower one than the environment's; empty where it is not.

    Raises:
        EngineError: it is not good, or that could not be found out. Only what is the backup's own is noted of it.
    """
    wanted = restore.wanted_database(docker)
    with external.reached(docker, wanted) as server:
        return _verify(docker, report, server, wanted, found, level)


def _verify(
    docker: Docker, report: Report, server: Container, wanted: Database, found: Mapping[str, Any], level: str
) -> tuple[str, str]:
    stack = docker.stack
    folder = stack.root / backup.FOLDER / str(found["id"])
    size = int(found.get("database_bytes", found["bytes"]))
    level, why = verification.level_for(docker, size, level)
    throw_away.remove_left(docker)
    if level == RESTORE and size > throw_away.SMALL_BYTES:
        backup_room.demand_to_restore(docker, size, "The test database")
    count = jobs.to_load(stack.backup, size, found)
    place: AbstractContextManager[Optional[throw_away.Server]] = (
        throw_away.server_like(docker, server, wanted, size, count) if level == RESTORE else nullcontext()
    )
    with backup_notes.judged(folder, found):
        media_away.demand_there(docker, found)
        with place as trial:
            with backup_offsite.copy_named(stack, found, "verify-backup"):
                verification.checksum(docker, folder, found)
            media_away.check(docker, report, found)
            if level != CHECKSUM:
                verification.reach(docker, report, server, folder, found, trial)
            else:
                verification.checksum_away(docker, report, folder, found)
    backup_notes.good(folder, found, level)
    return level, why


def verify_verb(docker: Docker, arguments: argparse.Namespace) -> None:
    """Show that a backup is good."""
    report: Report = arguments.report
    report.names = ("verify",)
    found = restore.choose(docker, arguments.backup)
    with report.step("verify"):
        backup_offsite.bring(docker.stack, report, found)
        level, why = verify(docker, report, found, arguments.level or "")
    text = f"Backup {found['id']} is good, verified by {level}{f' ({why})' if why else ''}."
    report.done({"changed": False, "backup": found["id"], "level": level, "message": text}, text)
