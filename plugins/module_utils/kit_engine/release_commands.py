"""The project's release commands (migrate above all): once in the new release, before it serves."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Optional

from kit_engine import command, database, one_off
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.stack import Source

RECORD = "records/release-commands.json"
# What programs leave in a source folder without changing what it does.
PASSED_OVER = frozenset({".git", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", "node_modules"})


@dataclass(frozen=True)
class Outcome:
    """What the release commands did: the migrations that were applied; ``ran`` is False where none was needed."""

    ran: bool
    migrations: list[str]


def run_if_needed(
    docker: Docker, current_web: list[Container], configuration: str, before: Callable[[], None] = lambda: None
) -> Outcome:
    """Run the release commands unless they ran for this very release on this very database.

    Args:
        docker: the stack's containers; the database runs.
        current_web: the running web containers if they are of this very release; else none, and the commands run
            in a container of their own.
        configuration: fingerprint of web's configuration.
        before: called before the first of them runs, where any does.

    Returns:
        What they did.

    Raises:
        EngineError: a command failed.
    """
    stack = docker.stack
    record = stack.root / RECORD
    if current_web and _recorded(record) == fingerprint(docker, current_web[0], configuration):
        return Outcome(False, [])
    before()
    applied: list[str] = []
    if current_web:
        run_in_place(docker, applied)
    else:
        run(docker, applied, partial(one_off.run, docker))
    return Outcome(True, applied)


def remember(docker: Docker, done_for: str) -> None:
    """Note for which release and database the commands ran.

    Args:
        docker: the stack's containers.
        done_for: its :func:`fingerprint`.
    """
    record = docker.stack.root / RECORD
    if _recorded(record) != done_for:
        record.write_text(json.dumps({"done_for": done_for}) + "\n", encoding="utf-8")


def run_in_place(docker: Docker, applied: list[str]) -> None:
    """Run the release commands inside the running web container; otherwise as :func:`run`."""
    run(docker, applied, lambda words: docker.execute(docker.running(docker.stack.web), words))


def run(docker: Docker, applied: list[str], execute: one_off.Execute, known: Optional[Sequence[str]] = None) -> None:
    """Run the release commands.

    Args:
        docker: the stack's containers; the database runs.
        applied: takes the migrations that were applied, also where a command failed.
        execute: runs each of them, in a container of the release.
        known: the migrations that are applied before them; default: the database is asked.

    Raises:
        EngineError: a command failed; with the end of what it said, and what was applied before.
    """
    stack = docker.stack
    if not stack.release_commands:
        return
    before = set(database.migrations(docker) if known is None else known)
    for words in stack.release_commands:
        done = execute(words)
        if done.code:
            if "password authentication failed" in done.out + done.err:
                raise EngineError(
                    "database_login",
                    f"The database refuses the app's password: its volume was made with another one.\n"
                    f"{command.tail(done.out + done.err, 3)}",
                    f"restore the secret that was lost (local: {stack.root}/secrets.json); or, if the data may go: "
                    f"{stack.make('destroy')}",
                )
            applied += [name for name in database.migrations(docker) if name not in before]
            so_far = f"\nApplied before it failed: {', '.join(applied)}" if applied else ""
            raise EngineError(
                "migrate",
                f"Release command `{command.readable(words)}` ended with {done.code}:\n"
                f"{command.tail(done.out + done.err)}{so_far}",
                f"mend the project, then: {stack.make('deploy')}",
            )
    applied += [name for name in database.migrations(docker) if name not in before]


def _recorded(record: Path) -> str:
    try:
        return str(json.loads(record.read_text(encoding="utf-8"))["done_for"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def fingerprint(docker: Docker, web: Container, configuration: str) -> str:
    """Hash everything that could make a release command act again.

    Args:
        docker: the stack's containers; the database runs.
        web: a container of the release's web.
        configuration: fingerprint of web's configuration.
    """
    stack = docker.stack
    facts = [
        web.image,
        configuration,
        stack.release,
        stack.release_commands,
        list(_files(stack.source)) if stack.source else [],
        database.identity(docker),
        database.migrations(docker),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _files(source: Source) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of each file of a mounted source, without what the project writes itself."""
    written = {source.path / name for name in source.writable_paths}
    for folder, folders, files in os.walk(source.path):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if name not in PASSED_OVER and here / name not in written)
        for name in sorted(files):
            try:
                found = (here / name).lstat()
            except FileNotFoundError:
                # An editor's temporary file, gone since the folder was read.
                continue
            yield str((here / name).relative_to(source.path)), found.st_size, found.st_mtime_ns
