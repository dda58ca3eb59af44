"""Dump and load by several processes where that pays: tables and indexes side by side.

Several need files in which each finds its own place, and a container that runs already can be given none: so a client
beside the server (client.py) has the backup's folder mounted, for a load only to be read. No load is one transaction:
that would hold locks on all that it makes, of which a server has some thousands (max_locks_per_transaction). Therefore
what is loaded into is new, and thrown away by whoever called where this fails.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Optional

from kit_engine import (
    backup_dump,
    backup_role,
    client,
    command,
    database,
    dump_feed,
    external,
    jobs,
    releases,
    streams,
)
from kit_engine.docker import Container, Docker
from kit_engine.dump_feed import Fed
from kit_engine.errors import EngineError
from kit_engine.report import Report
from kit_engine.stack import Database

_MOUNTED = "/backup"
# What pg_dump writes last into a folder: all that is in it.
_CONTENTS = "toc.dat"
# What pg_dump says where somebody waits for a table: his turn is before that of a further process of ours.
_TABLE_TAKEN = "could not obtain lock on relation"
# And what the server says when others have all its connections, or all that our role may have.
_CONNECTIONS_TAKEN = ("too many clients already", "remaining connection slots", "too many connections for")
# So that the indexes which several build at once fit into what a server's container may use.
_INDEX_BYTES, _MOST_INDEX_BYTES = 256 * 2**20, 64 * 2**20
# How far a load is, is not worth waiting for.
_ASK_SECONDS = 5.0
# Each is a file in a folder, and a line in the manifest.
_MOST_LARGE = 10_000
# Counts the lines that end a table's rows; ends as pg_restore does, which is the first of the two.
_READ = r"""
exec 3>&1
code=$({ { pg_restore --file=- "$1"; echo $? >&4; } | grep -Fxc '\.' >&3; } 4>&1)
exit "$code"
"""
# How many large objects there are, and how many more may connect.
_FACTS = (
    "SELECT (SELECT count(*) FROM pg_largeobject_metadata), current_setting('max_connections')::int"
    " - current_setting('superuser_reserved_connections')::int"
    " - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')"
)
# Besides its processes, what leads them, counts, and asks how far they are.
_FURTHER_CONNECTIONS = 4
_NOT_THERE = 77
_ASK = f'test "$1" "$2" || exit {_NOT_THERE}; [ -z "$3" ] || exec psql -XqAtw --dbname="$3" --command="$4"'


class TakenError(EngineError):
    """Others have what several need: one process could do it.

    Somebody waits to have a table for himself, as by TRUNCATE, and only who had every table before him dumps it now; or
    the server has no connection left.
    """


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


@dataclass(frozen=True)
class Source:
    """A moment of a database.

    Attributes:
        server: of the database.
        wanted: the database.
        moment: which is dumped.
        client: what dumps it.
    """

    server: Container
    wanted: Database
    moment: backup_dump.Snapshot
    client: backup_dump.Client


def dump(
    docker: Docker, report: Report, source: Source, new: Path, count: int, progress: streams.Progress,
    look: Callable[[], None],
) -> dict[str, Any]:  # fmt: skip
    """Dump a database: several into a folder, one into a file.

    Args:
        docker: the stack's containers.
        report: where it is told that several could not do it.
        source: what is dumped.
        new: folder of the backup.
        count: processes.
        progress: told how large it is.
        look: called about once a second; what it raises ends the dump.

    Returns:
        ``bytes`` and ``sha256`` of the dump, and the same of each of its ``files``.

    Raises:
        TakenError: several could not go on, whoever had begun alone could have; a new moment is needed.
        EngineError: pg_dump failed, or its output could not be written.
    """
    if count > 1:
        files, why = _dump_folder(docker, source, new, count, progress, look)
        if not why:
            each = "".join(f"{files[one]['sha256']}  {one}\n" for one in sorted(files))
            size = sum(one["bytes"] for one in files.values())
            return {"bytes": size, "sha256": hashlib.sha256(each.encode()).hexdigest(), "files": files}
        report.say(f"    dumped by one process instead of {count}: {why}")
        shutil.rmtree(new / dump_feed.FOLDER, ignore_errors=True)
    path = new / dump_feed.FILE
    digest = backup_dump.dump(docker, source.server, source.wanted, source.moment, source.client, path, progress, look)
    told = {"bytes": streams.size_of(path), "sha256": digest}
    return {**told, "files": {path.name: told}}


def _dump_folder(
    docker: Docker, source: Source, new: Path, count: int, progress: streams.Progress, look: Callable[[], None]
) -> tuple[dict[str, dict[str, Any]], str]:
    """Give the files that several wrote, or why they could not."""
    wanted = source.wanted
    words = backup_dump.words_for_folder(wanted, source.moment, source.client, f"{_MOUNTED}/{dump_feed.FOLDER}", count)
    written = _Written(new / dump_feed.FOLDER)

    def each_second() -> None:
        look()
        progress.at(written.follow())

    with ExitStack() as left:
        try:
            way = external.way(docker, source.server, wanted)
            made = left.enter_context(_beside(docker, "dumper", way, new, count, writes=True))
            large, why = _asked(made, new, "-w", _MOUNTED, wanted.name, count)
        except EngineError as error:
            return {}, error.problem
        if large > _MOST_LARGE:
            why = f"it has {large} large objects, and each would be a file"
        if why:
            return {}, why
        private = ["sh", "-c", 'umask 077; exec "$@"', "sh", *words]
        limit = docker.stack.backup.timeout_seconds
        code, said = streams.moved(backup_dump.low(made, private), limit=limit, progress=progress, look=each_second)
    files = written.files() if not code else {}
    if f"{dump_feed.FOLDER}/{_CONTENTS}" not in files:
        failure = backup_dump.failed(docker, wanted, words, code, said)
        taken = any(word in said for word in (_TABLE_TAKEN, *_CONNECTIONS_TAKEN))
        raise TakenError(failure.code, failure.problem, failure.remedy) if taken else failure
    return files, ""


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
        EngineError: it did not end in time, or the dump cannot be read.
    """
    words = ["pg_restore", "--exit-on-error", *options, "--no-password", f"--username={target.user}"]
    words.append(f"--dbname={target.name}")
    if count > 1 or path.is_dir():
        with ExitStack() as left:
            why = ""
            try:
                made = left.enter_context(_beside(docker, "loader", target.way, path.parent, count))
                _, why = _asked(made, path, "-r", _inside(path), target.name, count)
            except EngineError as error:
                why = error.problem
            if not why:
                memory = f"-c maintenance_work_mem={min(_MOST_INDEX_BYTES, _INDEX_BYTES // count) // 1024}kB"
                several = [*_set(target, memory), *words, f"--jobs={count}", f"{_MOUNTED}/{path.name}"]
                parallel = backup_dump.low(made, several)
                progress = streams.Progress(report, what, int(told.get("database_bytes", 0)), about=True)
                limit = docker.stack.backup.timeout_seconds
                growing = _Growing(target, progress, look)
                code, said = streams.moved(parallel, limit=limit, progress=progress, look=growing.look)
                return Fed(code, said, damaged=False, _head=None, _path=path)
        if path.is_dir():
            raise _unreadable(path, why)
        if report:
            report.say(f"    loaded by one process instead of {count}: {why}")
    words = ["docker", "exec", "--interactive", target.container, *_set(target), *words]
    return dump_feed.into(docker, words, path, told, streams.Progress(report, what, int(told["bytes"])), look)


def read(docker: Docker, server: Container, folder: Path) -> tuple[Fed, int, command.Done]:
    """Have the server's own client read all of a dump that is a folder.

    Of a file that is cut off pg_restore says nothing where its compression does not: the end of each table's rows is
    counted besides.

    Args:
        docker: the stack's containers.
        server: whose client.
        folder: of the dump.

    Returns:
        How that ended, of how many tables there are rows to their end, and the dump's table of contents.

    Raises:
        EngineError: it did not end in time, or no container of ours may read the folder.
    """
    place = f"{_MOUNTED}/{folder.name}"
    with _beside(docker, "reader", client.Way(server.image, "none", {}), folder.parent, 1) as made:
        _, why = _asked(made, folder, "-r", _inside(folder), "", 1)
        if why:
            raise _unreadable(folder, why)
        words, limit = backup_dump.low(made, ["sh", "-c", _READ, "sh", place]), docker.stack.backup.timeout_seconds
        with TemporaryFile() as counted:
            code, said = streams.moved(words, limit=limit, progress=streams.Progress(None, ""), out=counted)
            counted.seek(0)
            ends = int(counted.read() or 0)
        listed = command.run(["docker", "exec", made.id, "pg_restore", "--list", place])
    return Fed(code, said, damaged=False, _head=None, _path=folder), ends, listed


@contextmanager
def _beside(
    docker: Docker, purpose: str, way: client.Way, folder: Path, count: int, *, writes: bool = False
) -> Iterator[Container]:
    owner = folder.stat()
    mounted = ("--mount", f"type=bind,source={folder},target={_MOUNTED}{'' if writes else ',readonly'}")
    # Nobody but its owner may enter a backup; all that root may do besides was taken from the one inside.
    user, cpus = f"{owner.st_uid}:{owner.st_gid}", min(count, jobs.engine_cpus())
    with client.opened(docker, purpose, way, user=user, cpus=cpus, further=mounted) as made:
        yield made


def _inside(path: Path) -> str:
    """What of a dump is read first, where the client has it."""
    return f"{_MOUNTED}/{path.name}/{_CONTENTS}" if path.is_dir() else f"{_MOUNTED}/{path.name}"


def _set(target: Target, *further: str) -> list[str]:
    """Words before a program that set what its sessions have; nothing for a server of others, where a pooler refuses.

    None waits for the disk after each statement: the rename that puts the database into its place is a commit that
    waits for all before it.
    """
    options = " ".join(("-c synchronous_commit=off", *further))
    return ["env", f"PGOPTIONS={options}"] if target.way.is_beside else []


def _asked(made: Container, path: Path, flag: str, inside: str, name: str, count: int) -> tuple[int, str]:
    """Find out whether a client can do it: an engine with user namespaces reads as somebody else; a server may refuse.

    Args:
        made: the client.
        path: that it needs; ``inside``, by its own name for it.
        flag: of ``test``.
        name: of the database that it must reach; empty: none.
        count: processes that will come to it.

    Returns:
        How many large objects the database has, and why the client cannot do it; empty where it can.
    """
    words = ["docker", "exec", made.id, "sh", "-c", _ASK, "sh", flag, inside, name, _FACTS]
    done = command.run(words, limit=client.CONNECT_SECONDS + command.QUICK_SECONDS)
    if done.code == _NOT_THERE:
        engine = "Docker's engine is rootless, or has user namespaces?"
        return 0, f"a container of ours cannot {'write into' if flag == '-w' else 'read'} {path} ({engine})"
    if done.code:
        return 0, " ".join(done.err.split()) or f"it ended with {done.code}"
    if not name:
        return 0, ""
    large, free = (int(one) for one in done.out.strip().split("|"))
    if count > 1 and free < count + _FURTHER_CONNECTIONS:
        return large, f"the server has {max(0, free)} connections left"
    return large, ""


def _unreadable(path: Path, why: str) -> EngineError:
    return EngineError(
        "backup",
        f"{path} is a folder, which only a container of ours with it mounted can read: {why}",
        "mend what is named above, or restore on a host where containers may read it, then repeat the command",
    )


class _Written:
    """The files of a dump, hashed while they grow."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._each = folder, dict[str, streams.Growing]()

    def follow(self) -> int:
        """Take what came since; gives the bytes of all."""
        for path in self._folder.glob("*"):
            self._each.setdefault(path.name, streams.Growing(path)).follow()
        return streams.size_of(self._folder)

    def files(self) -> dict[str, dict[str, Any]]:
        """Have all of them on the disk; gives size and SHA-256 of each, by its path in the backup."""
        self.follow()
        told = {}
        for name, one in sorted(self._each.items()):
            descriptor = os.open(one.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            told[f"{self._folder.name}/{name}"] = {"bytes": streams.size_of(one.path), "sha256": one.sha256()}
        releases.sync_folder(self._folder)
        return told


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
            size = ""
            # A server that is slow to say is at work.
            with suppress(EngineError):
                size = command.run(self._words, limit=_ASK_SECONDS).out.strip()
            if size.isdigit():
                self._progress.at(int(size))
