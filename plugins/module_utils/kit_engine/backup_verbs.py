"""Make and list backups; apart from restoring, which loads half of the engine while somebody waits for a backup."""

from __future__ import annotations

import argparse
import platform
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
    stack, problem, away = docker.stack, "", set[tuple[str, str]]()
    found = backup.listed(stack.root)
    try:
        away = backup_offsite.listed(stack)
    except EngineError as error:
        problem = error.problem
    for one in found:
        here = [] if one.get(dump_feed.SNAPSHOT) else ["host"]
        # Where the place does not answer, what was put there is taken to be there.
        one["where"] = [*here, *(["off-site"] if backup_offsite.lies(away, one) or (problem and not here) else [])]
    hosts: dict[str, list[str]] = {}
    for host, given in sorted(away):
        if given not in {str(one["id"]) for one in found}:
            hosts.setdefault(given, []).append(host)
    only = sorted(hosts, reverse=True)
    lines = [_line(one) for one in found]
    lines += [f"{given}, off-site only{_whose(hosts[given])}" for given in only]
    lines += [f"warning: which lie off-site is not known: {problem}"] if problem else []
    told = {"changed": False, "backups": found, "offsite_only": only, "offsite_problem": problem}
    told["offsite_hosts"] = hosts
    arguments.report.done(told, "\n".join(lines) or "No backup yet.")


def _line(one: dict[str, Any]) -> str:
    told = f"{backup.line(one)}{backup.elsewhere(one)}, {one['kind']}, release {one['release'] or '-'}"
    return f"{told}, {_where(one)}"


def _whose(hosts: list[str]) -> str:
    """Of one that this host has too, its own is meant."""
    return "" if platform.node() in hosts else f", made on host {' and '.join(hosts)}"


def _where(one: dict[str, Any]) -> str:
    return f"on {' and '.join(one['where'])}" if one["where"] else "NOWHERE: what lay off-site is gone"
