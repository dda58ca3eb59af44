"""Make and list backups; apart from restoring, which loads half of the engine while somebody waits for a backup."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from kit_engine import backup, backup_offsite, backup_prune, dump_feed
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report


def backup_verb(docker: Docker, arguments: argparse.Namespace) -> Callable[[], None]:
    """Back the stack up; what is left for after the lock is to copy it off-site."""
    report: Report = arguments.report
    report.names = ("backup",)
    with report.step("backup"):
        done = backup.create(docker, report, arguments.level or "")
        backup_prune.prune(docker.stack, report)
    text = backup.line({**done.as_record(), "age": 0.0})

    def copied() -> None:
        backup_offsite.copy_made(docker.stack, report, done.id)
        report.done({"changed": True, "backup": done.as_record(), "message": text}, text)

    return copied


def backups_verb(docker: Docker, arguments: argparse.Namespace) -> None:
    """List the backups, and where each lies."""
    stack, problem, away = docker.stack, "", set[str]()
    found = backup.listed(stack.root)
    try:
        away = set(backup_offsite.listed(stack))
    except EngineError as error:
        problem = error.problem
    for one in found:
        here = [] if one.get(dump_feed.SNAPSHOT) else ["host"]
        # Where the place does not answer, what was put there is taken to be there.
        one["where"] = [*here, *(["off-site"] if one["id"] in away or (problem and not here) else [])]
    only = sorted(away - {str(one["id"]) for one in found}, reverse=True)
    lines = [f"{backup.line(one)}, {one['kind']}, release {one['release'] or '-'}, {_where(one)}" for one in found]
    lines += [f"{one}, off-site only" for one in only]
    lines += [f"warning: which lie off-site is not known: {problem}"] if problem else []
    told = {"changed": False, "backups": found, "offsite_only": only, "offsite_problem": problem}
    arguments.report.done(told, "\n".join(lines) or "No backup yet.")


def _where(one: dict[str, Any]) -> str:
    return f"on {' and '.join(one['where'])}" if one["where"] else "NOWHERE: what lay off-site is gone"
