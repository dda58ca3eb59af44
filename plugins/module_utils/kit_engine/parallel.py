"""Load a dump into a database, by several processes where that pays: tables and indexes side by side.

Several need a file in which each finds its own place, and a container that runs already can be given none: so a client
beside the server (client.py) has the backup's folder mounted, for reading. Each process has a transaction of its own,
therefore what is loaded into is new, and thrown away by whoever called where this fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from kit_engine import backup_dump, backup_role, client, command, database, dump_feed, jobs, streams
from kit_engine.docker import Container, Docker
from kit_engine.dump_feed import Fed
from kit_engine.errors import EngineError
from kit_engine.report import Report

_MOUNTED = "/backup"


@dataclass(frozen=True)
class Target:
    """An empty database.

    Attributes:
        container: id or name of the one whose programs reach its server.
        way: by which a client of its own comes there.
        user: role.
        name: of the database.
    """

    container: str
    way: client.Way
    user: str
    name: str


def load(
    docker: Docker, report: Optional[Report], target: Target, path: Path, told: Mapping[str, Any], count: int,
    what: str, *, options: Sequence[str] = (), look: Callable[[], None] = lambda: None,
) -> Fed:  # fmt: skip
    """Load the dump of a backup.

    Args:
        docker: the stack's containers.
        report: where progress is told; None: nobody reads along.
        target: where.
        path: of the dump, if it lies on this host.
        told: the backup's manifest.
        count: processes; more than one wants a dump on this host.
        what: begins the lines of progress, such as ``restored``.
        options: of pg_restore.
        look: called about once a second; what it raises ends the load.

    Returns:
        How pg_restore ended.

    Raises:
        EngineError: it did not end in time, or the dump cannot be read off-site.
    """
    words = ["pg_restore", "--exit-on-error", *options, "--no-password", f"--username={target.user}"]
    words.append(f"--dbname={target.name}")
    if count > 1:
        with ExitStack() as left:
            why = ""
            try:
                made = left.enter_context(_beside(docker, target, path, count))
                why = _unfit(target, made.id, path)
            except EngineError as error:
                why = error.problem
            if not why:
                parallel = backup_dump.low(made, [*words, f"--jobs={count}", f"{_MOUNTED}/{path.name}"])
                progress = streams.Progress(report, what, int(told.get("database_bytes", 0)), about=True)
                limit = docker.stack.backup.timeout_seconds
                growing = _Growing(target, progress, look)
                code, said = streams.moved(parallel, limit=limit, progress=progress, look=growing.look)
                return Fed(code, said, damaged=False, _head=None, _path=path)
        if report:
            report.say(f"    loaded by one process instead of {count}: {why}")
    words = ["docker", "exec", "--interactive", target.container, *words, "--single-transaction"]
    return dump_feed.into(docker, words, path, told, streams.Progress(report, what, int(told["bytes"])), look)


def _beside(docker: Docker, target: Target, path: Path, count: int) -> AbstractContextManager[Container]:
    owner = path.stat()
    mounted = ("--mount", f"type=bind,source={path.parent},target={_MOUNTED},readonly")
    # Nobody but its owner may read a backup; all that root may do besides was taken from the one inside.
    return client.opened(
        docker, "loader", target.way, user=f"{owner.st_uid}:{owner.st_gid}", cpus=min(count, jobs.engine_cpus()),
        further=mounted,
    )  # fmt: skip


def _unfit(target: Target, made: str, path: Path) -> str:
    """Why the client cannot do it: an engine with user namespaces reads as somebody else; a server may refuse it."""
    asked = ["psql", "--no-psqlrc", "--no-password", "--quiet", f"--username={target.user}", f"--dbname={target.name}"]
    script = f'test -r "$1" || {{ echo "it cannot read {path}" >&2; exit 1; }}; shift; exec "$@"'
    words = ["docker", "exec", made, "sh", "-c", script, "sh", f"{_MOUNTED}/{path.name}", *asked, "--command=SELECT 1"]
    done = command.run(words, limit=client.CONNECT_SECONDS + command.QUICK_SECONDS)
    return " ".join((done.err or done.out).split()) or f"it ended with {done.code}" if done.code else ""


class _Growing:
    """Tells how large the database has become: no file's place says how far several are."""

    def __init__(self, target: Target, progress: streams.Progress, look: Callable[[], None]) -> None:
        self._look, self._progress, self._asked = look, progress, time.monotonic()
        question = f"--command=SELECT {database.SIZE}"
        self._words = ["docker", "exec", target.container, *backup_role.words(target.user, target.name), question]

    def look(self) -> None:
        """Ask, if it is time for that; where nothing is answered nothing is told."""
        self._look()
        if self._progress.report and time.monotonic() - self._asked >= streams.PROGRESS_SECONDS:
            self._asked = time.monotonic()
            size = command.run(self._words).out.strip()
            if size.isdigit():
                self._progress.at(int(size))
