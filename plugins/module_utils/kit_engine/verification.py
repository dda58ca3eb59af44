"""How far a backup is shown to be good: its checksums, a full read, a restore whose rows are counted."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Optional

from kit_engine import backup_dump, backup_role, client, command, dump_feed, parallel, streams, throw_away
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report

CHECKSUM, READ, RESTORE = LEVELS = ("checksum", "read", "restore")
DUMP = dump_feed.FILE
ROLES, CONFIGURATION, MEDIA_LIST, MEDIA = "roles.sql", "configuration.tar", "media.jsonl", "media"
SEAL = "seal"
# From this one on a manifest is sealed, and names every file.
SEALED_SCHEMA = 2
SHOWN = 5
_CHUNK = 1 << 20


# What pg_restore says where not the dump failed, but what it was loaded into: no room, or a server that went.
_NOT_THE_BACKUPS = (
    *("no space left", "disk quota", "out of memory", "out of shared memory", "cannot allocate memory"),
    *("could not extend", "could not write", "could not resize", "input/output error", "worker process died"),
    *("connection to server", "closed the connection", "terminating connection", "canceling statement"),
    *("recovery mode", "shutting down", "starting up", "too many clients", "connection slots"),
)


class DamagedError(EngineError):
    """A backup is bad by itself, and stays so, however often one looks.

    A file of it is missing, or is not what was written; or its dump does not restore where nothing else failed, or
    restores to other rows.
    """


def sealed(told: Mapping[str, Any]) -> dict[str, Any]:
    """Add to a manifest the checksum of itself, by which a change of any other line is seen."""
    rest = {name: value for name, value in told.items() if name != SEAL}
    return {**rest, SEAL: _seal(rest)}


def is_sealed(told: Mapping[str, Any]) -> bool:
    """Whether a manifest is what was written; those of schema 1 had no seal."""
    rest = {name: value for name, value in told.items() if name != SEAL}
    return told.get("schema") == 1 or told.get(SEAL) == _seal(rest)


def _seal(rest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def level_for(docker: Docker, size: int, wanted: str = "", *, replaced: bool = False) -> tuple[str, str]:
    """Choose the level of a new backup.

    Args:
        docker: the stack's containers.
        size: bytes of the database.
        wanted: a level that was asked for; empty: the environment's own, which yields to the size.
        replaced: whether the database is one that is about to be replaced, maybe since it does not restore.

    Returns:
        The level, and a sentence on why it is a lower one than the environment's; empty where it is not.
    """
    backup = docker.stack.backup
    if not wanted and backup.level == RESTORE and replaced:
        return READ, "not restored: it is of what is about to be replaced"
    if wanted or backup.level != RESTORE or size <= backup.restore_test_max_bytes:
        return wanted or backup.level, ""
    return READ, (
        f"not restored: the database has {size / 2**30:.1f} GiB, more than the "
        f"{backup.restore_test_max_bytes / 2**30:.1f} GiB of backup_restore_test_max_bytes"
    )


def reach(
    docker: Docker, report: Optional[Report], server: Container, folder: Path, told: Mapping[str, Any],
    trial: Optional[throw_away.Server],
) -> None:  # fmt: skip
    """Go beyond the checksums: restore where there is a server to restore into, which reads all of it; else read.

    Args:
        docker: the stack's containers.
        report: where progress is told; None: nobody reads along.
        server: of the database; its client reads.
        folder: of the backup.
        told: its manifest.
        trial: what the backup is restored into.

    Raises:
        DamagedError: the backup is not good.
        EngineError: that could not be found out.
    """
    if trial:
        restore(docker, report, trial, folder, told)
    else:
        read(docker, report, server, folder, told)


def checksum(docker: Docker, folder: Path, told: Mapping[str, Any]) -> None:
    """Compare every file of a backup that lies on this host with what was written.

    Args:
        docker: the stack's containers.
        folder: of the backup.
        told: its manifest.

    Raises:
        EngineError: a file is missing, or is another one; the message names it.
    """
    files = told.get("files") or {DUMP: {"bytes": told["bytes"], "sha256": told["sha256"]}}
    for name, wanted in files.items():
        if name == DUMP and told.get(dump_feed.SNAPSHOT):
            continue
        _demand_same(docker, folder / name, wanted["bytes"], wanted["sha256"])
    if MEDIA_LIST in files:
        # Files of the same content are kept once.
        wanted_media = {entry["sha256"]: entry["size"] for entry in media_entries(folder) if entry["kind"] == "file"}
        for digest, size in wanted_media.items():
            _demand_same(docker, media_path(folder, digest), size, digest)


def read(docker: Docker, report: Optional[Report], server: Container, folder: Path, told: Mapping[str, Any]) -> None:
    """Have the server's own client read all of the dump: a table of contents alone passes for one that was cut.

    Args:
        docker: the stack's containers.
        report: where progress is told.
        server: whose client.
        folder: of the backup.
        told: its manifest.

    Raises:
        DamagedError: it cannot be read, or lacks a table.
        EngineError: what reads it failed.
    """
    what, whole = "The backup cannot be read back", None
    if dump_feed.name_of(told) == dump_feed.FOLDER:
        fed, whole, listed = parallel.read(docker, server, folder / dump_feed.FOLDER)
        demand_fed(docker, fed, what, lambda: True)
    else:
        words = backup_dump.low(server, ["pg_restore", "--file=/dev/null"], reads=True)
        fed = dump_feed.into(docker, words, folder / DUMP, told, streams.Progress(report, "read", int(told["bytes"])))
        demand_fed(docker, fed, what, lambda: True)
        with fed.contents() as file:
            listed = command.run(["docker", "exec", "--interactive", server.id, "pg_restore", "--list"], stdin=file)
    rows = told.get("rows") or {}
    # One line a table, an empty one too.
    found = len(re.findall(r"^\d+; \d+ \d+ TABLE DATA ", listed.out, re.MULTILINE))
    if whole is not None and whole < found:
        raise _bad(docker, f"{what}: of {found} tables, {found - whole} end before their rows do.", DamagedError)
    if listed.code:
        raise _bad(docker, f"{what}; pg_restore --list ended with {listed.code}:\n{command.tail(listed.err)}")
    if found < len(rows):
        problem = f"The backup holds the rows of {found} tables, the database has {len(rows)}."
        raise _bad(docker, problem, DamagedError)


def restore(
    docker: Docker, report: Optional[Report], trial: throw_away.Server, folder: Path, told: Mapping[str, Any]
) -> None:
    """Restore the dump into a server of its own, and count the rows.

    Args:
        docker: the stack's containers.
        report: where progress is told.
        trial: the server; it is empty.
        folder: of the backup.
        told: its manifest.

    Raises:
        DamagedError: it does not restore, or has other rows than the database had.
        EngineError: the server failed, or has no room.
    """
    trial.demand_ready()
    make_roles(trial.name, trial.user, folder)
    way = client.beside(trial.name, trial.image, trial.user)
    target = parallel.Target(trial.name, way, trial.user, trial.database)
    dump, what = folder / dump_feed.name_of(told), "restored for a test"
    fed = parallel.load(docker, report, target, dump, told, trial.jobs, what, options=("--no-tablespaces",))
    demand_fed(docker, fed, "The backup does not restore", partial(_answers, trial))
    found = counted(docker, trial.name, trial.user, trial.database)
    demand_rows(docker, told.get("rows") or {}, found, "The restored backup")


def demand_fed(docker: Docker, fed: dump_feed.Fed, what: str, stands: Callable[[], bool] = lambda: False) -> None:
    """Refuse a dump that was not read to its good end.

    Args:
        docker: the stack's containers.
        fed: how that ended.
        what: begins the message, such as ``The backup does not restore``.
        stands: asked whether what it was loaded into is well, and was empty, so that only the dump can be at fault.

    Raises:
        DamagedError: it is not what was written, or nothing but itself can be at fault.
        EngineError: it was not read to its end for another reason.
    """
    if fed.damaged:
        problem = f"{what}: {DUMP} off-site is not what was written; its size or its SHA-256 is another one."
        raise _bad(docker, problem, DamagedError)
    if fed.code:
        kind = DamagedError if _complained(fed) and stands() else EngineError
        raise _bad(docker, f"{what}; pg_restore ended with {fed.code}:\n{command.tail(fed.said)}", kind)


def checksum_away(docker: Docker, report: Optional[Report], folder: Path, told: Mapping[str, Any]) -> None:
    """Read a dump that lies off-site only, and compare it with what was written; one on this host is not read.

    Args:
        docker: the stack's containers.
        report: where progress is told.
        folder: of the backup.
        told: its manifest.

    Raises:
        EngineError: it cannot be read, or is another one.
    """
    if told.get(dump_feed.SNAPSHOT):
        progress = streams.Progress(report, "read", int(told["bytes"]))
        demand_fed(docker, dump_feed.into(docker, (), folder / DUMP, told, progress), "The backup is not good")


def make_roles(container: str, user: str, folder: Path) -> None:
    """Make the roles of a backup that a server lacks: what they own or were granted does not restore without them.

    Args:
        container: id or name of the server's.
        user: role that may do so.
        folder: of the backup.
    """
    roles = folder / ROLES
    if roles.is_file():
        # Some are there already, which psql complains of; whatever matters, pg_restore will miss.
        psql = ["psql", "--no-psqlrc", "--quiet", "--no-password", f"--username={user}", "--dbname=postgres"]
        with roles.open("rb") as file:
            command.run(["docker", "exec", "--interactive", container, *psql], stdin=file)


def counted(docker: Docker, container: str, user: str, name: str) -> dict[str, int]:
    """Count the rows of a database.

    Args:
        docker: the stack's containers.
        container: id or name of its server.
        user: role.
        name: of the database.

    Returns:
        By table, as SQL writes its name.

    Raises:
        EngineError: it refuses.
    """
    words = ["docker", "exec", "--interactive", container, *backup_role.words(user, name)]
    done = command.run(words, stdin=backup_dump.COUNTS, limit=docker.stack.backup.timeout_seconds)
    if done.code:
        raise _bad(docker, f"The rows of {name} cannot be counted:\n{command.tail(done.err)}")
    return backup_dump.rows_of(done.out.splitlines())


def demand_rows(docker: Docker, wanted: Mapping[str, int], found: Mapping[str, int], what: str) -> None:
    """Refuse other rows than those that were dumped.

    Args:
        docker: the stack's containers.
        wanted: rows by table, as the manifest has them.
        found: rows by table.
        what: begins the message, such as ``The restored backup``.

    Raises:
        DamagedError: they differ; the message names tables.
    """
    differing = [name for name in wanted if wanted[name] != found.get(name)]
    if differing:
        lines = "\n".join(
            f"    {name}: {wanted[name]} dumped, {found.get(name, 'no table')}" for name in differing[:SHOWN]
        )
        problem = f"{what} has other rows than the database had, in {len(differing)} tables:\n{lines}"
        raise _bad(docker, problem, DamagedError)


def media_entries(folder: Path) -> Iterator[dict[str, Any]]:
    """Read a backup's list of media files."""
    with (folder / MEDIA_LIST).open(encoding="ascii") as file:
        for line in file:
            yield json.loads(line)


def media_path(folder: Path, digest: str) -> Path:
    """Where a media file of some content lies: names of the project's making never reach our file system."""
    # By the thousand: each further part of a path is as much work as the first.
    return Path(f"{folder}/{MEDIA}/{digest[:2]}/{digest}")


def sha256(path: Path) -> str:
    """Hash a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while True:
            part = file.read(_CHUNK)
            if not part:
                return digest.hexdigest()
            digest.update(part)


def _complained(fed: dump_feed.Fed) -> bool:
    """Whether pg_restore ended by itself, over something that is no matter of room or of a server that went."""
    said = fed.said.lower()
    # A client of Docker's that cannot reach it ends with 1 too, a program that was killed with another code.
    return fed.code == 1 and "pg_restore:" in said and not any(word in said for word in _NOT_THE_BACKUPS)


def _answers(trial: throw_away.Server) -> bool:
    words = ["docker", "exec", trial.name, *backup_role.words(trial.user, trial.database), "--command=SELECT 1"]
    with suppress(EngineError):
        return command.run(words).code == 0
    return False


def _demand_same(docker: Docker, path: Path, size: int, digest: str) -> None:
    if not path.is_file():
        raise _bad(docker, f"{path} is missing.", DamagedError)
    if path.stat().st_size != size or sha256(path) != digest:
        raise _bad(docker, f"{path} is not what was written: its size or its SHA-256 is another one.", DamagedError)


def _bad(docker: Docker, problem: str, kind: type[EngineError] = EngineError) -> EngineError:
    remedy = docker.stack.make("backups") + f"    (choose another), or {docker.stack.make('backup')}"
    return kind("backup", f"{problem}\nNothing was changed.", remedy)
