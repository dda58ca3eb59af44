"""A backup: the database, roles and grants, media files, the release's configuration; verified before it counts.

Each lies in a folder of its own under ``shared/backups``, which gets its final name last: what has none is no backup.
"""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import tarfile
import time
from calendar import timegm
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Optional

from kit_engine import (
    __version__,
    backup_dump,
    backup_loss,
    backup_media,
    backup_notes,
    backup_role,
    backup_room,
    backup_stream,
    beside,
    disk,
    dump_feed,
    external,
    jobs,
    parallel,
    releases,
    streams,
    throw_away,
    verification,
)
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report, duration
from kit_engine.stack import FILE_NAME, Database, Stack
from kit_engine.verification import CHECKSUM, CONFIGURATION, DUMP, MEDIA_LIST, RESTORE, ROLES, SEALED_SCHEMA

FOLDER = backup_room.FOLDER
MANIFEST = "manifest.json"
# What a cut off run left of one; nobody takes it for a backup.
UNFINISHED = ".new-"
# Before a release, by the timer, by hand, before a restore.
RELEASE, SCHEDULED, MANUAL, SAFETY = KINDS = ("release", "scheduled", "manual", "safety")
_STAMP, _STAMP_LENGTH = "%Y%m%dT%H%M%SZ", 16


@dataclass(frozen=True)
class Backup:
    """What is known of one backup; its manifest holds the same, sealed.

    Attributes:
        id: UTC as in release ids, with the release that was to come; later ones sort behind, whatever the clock does.
        kind: what it was made for.
        made: seconds since 1970, by this host's clock.
        server: version of PostgreSQL; ``client`` that of the pg_dump in its image.
        bytes: size of the dump; ``sha256`` of it, or where it is a folder of the lines that sha256sum prints for it.
        database_bytes: what the database took on the server's disk.
        compression: of the dump.
        files: size in ``bytes`` and ``sha256`` of each file but the media's, whose list is among them.
        rows: by table, in the very snapshot that was dumped.
        media: files, bytes, and which changed while they were read; None where the project has none in a volume.
        level: how far it was verified: ``checksum``, ``read`` (all of it through pg_restore), ``restore`` (into a
            server of its own, and the rows counted).
        seconds: that all of it took.
        dump_snapshot: restic's id of the dump where it lies off-site only; ``media_snapshot`` likewise.
        host: name of the machine that made it; empty in what an earlier kit wrote.
    """

    id: str
    kind: str
    made: float
    project: str
    env: str
    release: str
    database: str
    server: str
    client: str
    bytes: int
    sha256: str
    database_bytes: int
    compression: str
    level: str
    seconds: float
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    media: Optional[dict[str, Any]] = None
    dump_snapshot: str = ""
    media_snapshot: str = ""
    host: str = ""
    engine: str = __version__
    schema: int = SEALED_SCHEMA

    def as_record(self) -> dict[str, Any]:
        """Give what a release's record says of it."""
        return {"id": self.id, "bytes": self.bytes, "level": self.level, "seconds": self.seconds}


def create(docker: Docker, report: Report, level: str = "", kind: str = MANUAL) -> Backup:
    """Back the stack up, and verify it.

    Args:
        docker: the stack's containers; its own database runs.
        report: where progress is told.
        level: how far it is verified; empty: as far as the environment says.
        kind: what it is made for, one of :data:`KINDS`.

    Returns:
        The backup, which lies under its final name.

    Raises:
        EngineError: it failed, or the database was emptied; nothing of it is left, and earlier ones are untouched.
    """
    wanted = docker.stack.backed_up
    if wanted is None:
        problem = "This release knows no database to back up; it was rendered by an earlier kit."
        raise EngineError("backup", problem, docker.stack.make("deploy"))
    with external.reached(docker, wanted) as server:
        try:
            return _create(docker, report, server, wanted, level, kind, docker.stack.backup.jobs)
        except parallel.TakenError as error:
            report.say(f"    dumped anew, by one process: {error.problem}")
            return _create(docker, report, server, wanted, level, kind, 1)


def _create(
    docker: Docker, report: Report, server: Container, wanted: Database, level: str, kind: str, asked: int
) -> Backup:
    stack = docker.stack
    folder = stack.root / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    with backup_dump.opened(docker, server, wanted) as session:
        # Meanwhile the session starts. What may still write into a folder goes before that.
        throw_away.remove_left(docker)
        remove_unfinished(stack.root)
        size = session.size()
        reached, why = verification.level_for(docker, size, level, replaced=kind == SAFETY)
        _demand_space(docker, folder, size, restores=reached == RESTORE)
        given = free_id(stack.root, stack.release or stack.env)
        streamed: AbstractContextManager[Optional[backup_stream.Away]] = (
            nullcontext() if stack.backup.local_copy else backup_stream.opened(docker, report, given, folder)
        )
        new = folder / f"{UNFINISHED}{os.getpid()}"
        try:
            with streamed as away:
                new.mkdir(mode=0o700)
                count = 1 if away else jobs.chosen(asked, size, jobs.engine_cpus())
                done = _fill(docker, report, server, session, wanted, new, size, reached, kind, away, count)
                new.rename(folder / done.id)
                releases.sync_folder(folder)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            with suppress(EngineError):
                backup_role.end_sessions(server, wanted)
            raise
    _tell(report, done, why)
    return done


def remove_unfinished(root: Path) -> None:
    """Remove what runs that were cut off have left; the lock is ours, so nobody is at work on it."""
    for left in (root / FOLDER).glob(f"{UNFINISHED}*"):
        shutil.rmtree(left)


def listed(root: Path) -> list[dict[str, Any]]:
    """Describe the backups on this host, the newest first.

    Args:
        root: the deploy root.

    Returns:
        The manifest of each, with its ``age`` in seconds, the highest ``level`` that it reached, when it was ``made``,
        last shown to be good (``verified``) and last restored for that (``restored``, 0 where it never was), all in
        seconds since 1970, and what a later check found (``problem``, else empty). What has no manifest that is as it
        was written is no backup.
    """
    return list(_each(root))


def newest(root: Path, but: str = "") -> Optional[dict[str, Any]]:
    """Describe the newest good backup as :func:`listed` does; None where there is none of another kind than ``but``."""
    return next((one for one in _each(root) if not one["problem"] and one["kind"] != but), None)


def last_restored(root: Path) -> Optional[dict[str, Any]]:
    """Describe the backup that was restored last, for a test or by a drill; None where none ever was."""
    restored = [one for one in _each(root) if one["restored"] and not one["problem"]]
    return max(restored, key=lambda one: float(one["restored"]), default=None)


def line(told: dict[str, Any]) -> str:
    """Write a backup in one line: its id, size, age, and how far it was verified."""
    size = told["bytes"] / 2**20
    verdict = f"NOT GOOD: {told['problem']}" if told.get("problem") else f"verified by {told['level']}"
    away = ", dump off-site" if told.get("dump_snapshot") else ""
    return f"{told['id']}, {size:.1f} MiB{away}, {duration(told['age'])} ago, {verdict}"


def elsewhere(told: Mapping[str, Any]) -> str:
    """Write behind a backup on which host it was made; empty where that is this one, or not known."""
    host = told.get("host") or platform.node()
    return "" if host == platform.node() else f", made on host {host}"


def free_id(root: Path, release: str) -> str:
    """Give the id of a backup that is made now: behind all that there are, even if the clock was set back.

    Args:
        root: the deploy root.
        release: what follows the time.
    """
    moment = int(time.time())
    for name in names(root)[:1]:
        moment = max(moment, time_of(name) + 1)
    return f"{time.strftime(_STAMP, time.gmtime(moment))}-{release}"


def names(root: Path) -> list[str]:
    """Give all folders that bear the name of a backup, the newest first."""
    found = []
    for path in (root / FOLDER).glob("[0-9]*Z-*"):
        with suppress(ValueError):
            time_of(path.name)
            found.append(path.name)
    return sorted(found, reverse=True)


def time_of(name: str) -> int:
    """Give the time in a backup's id, in seconds since 1970; raises ValueError for another name.

    It tells the order alone: after a clock that went wrong (:func:`free_id`) it is not when the backup was made.
    """
    return timegm(time.strptime(name[:_STAMP_LENGTH], _STAMP))


def read(text: str, name: str) -> Optional[dict[str, Any]]:
    """Read a manifest as :func:`listed` describes it; None where it is not what was written for a backup of that id."""
    try:
        told: dict[str, Any] = json.loads(text)
        if told["id"] != name or not verification.is_sealed(told):
            return None
        made = float(told.get("made", time_of(name)))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    # What was made before there were kinds is kept as long as that of a release.
    return {
        "kind": RELEASE, "host": "", **told, "made": made, "age": max(0.0, time.time() - made), "verified": made,
        "restored": made if told.get("level") == RESTORE else 0.0, "problem": "",
    }  # fmt: skip


def _each(root: Path) -> Iterator[dict[str, Any]]:
    for name in names(root):
        with suppress(OSError, UnicodeDecodeError):
            found = read((root / FOLDER / name / MANIFEST).read_text(encoding="utf-8"), name)
            if found:
                yield {**found, **backup_notes.noted(root / FOLDER / name)}


def _fill(
    docker: Docker, report: Report, server: Container, session: backup_dump.Session, wanted: Database, new: Path,
    size: int, level: str, kind: str, away: Optional[backup_stream.Away], count: int,
) -> Backup:  # fmt: skip
    """Write everything into the new folder, the manifest last, and verify it."""
    begun = time.monotonic()
    # What it is restored into starts while the dump is made.
    server_of_its_own: AbstractContextManager[Optional[throw_away.Server]] = (
        throw_away.server_like(docker, server, wanted, size, count) if level == RESTORE else nullcontext()
    )
    with server_of_its_own as trial:
        dump = partial(_dump_away, away) if away else partial(_dump, count)
        facts = dump(docker, report, server, session, wanted, new, size)
        if kind != SAFETY:
            # One before a restore may well be of what was lost, so nothing is compared with it either.
            before = newest(docker.stack.root, but=SAFETY)
            backup_loss.judge(docker.stack, report, before, facts, meant=kind == MANUAL)
        if level != CHECKSUM:
            verification.reach(docker, report, server, new, facts, trial)
    stack = docker.stack
    done = Backup(
        id=away.given if away else free_id(stack.root, stack.release or stack.env), kind=kind, level=level,
        seconds=round(time.monotonic() - begun, 2), **facts,
    )  # fmt: skip
    releases.replace(new / MANIFEST, json.dumps(verification.sealed(asdict(done)), indent=2) + "\n")
    (new / MANIFEST).chmod(0o600)
    if away:
        away.keep(new, facts)
    return done


def _dump(
    count: int, docker: Docker, report: Report, server: Container, session: backup_dump.Session, wanted: Database,
    new: Path, size: int,
) -> dict[str, Any]:  # fmt: skip
    """Write all files but the manifest; gives what that says of them."""
    before = newest(docker.stack.root, but=SAFETY)
    wanted = backup_role.settled(docker, server, wanted)
    if backup_role.reader(wanted) == wanted.user:
        report.say(f"    {backup_role.read_by_user(wanted)}")
    # As small beside the database as the last one was; the first is smaller than the database.
    last = before["bytes"] * size // max(1, before.get("database_bytes", size)) if before else size
    with ExitStack() as beside_it:
        # The moment is let go when it is dumped: it keeps the server from clearing up, and media files may take hours.
        with backup_dump.snapshot(docker, session, wanted) as moment:
            # Compressing takes one processor nearly all the time; the media files are copied meanwhile.
            media = partial(_media, docker, report, new, backup_room.for_dump(before, size))
            copied = beside_it.enter_context(beside.begun(media))
            with beside.begun(partial(_small_files, docker, server, wanted, new)):
                client = session.client()
                progress = streams.Progress(report, "dumped", last, about=True)
                source = parallel.Source(server, wanted, moment, client)
                told = parallel.dump(docker, report, source, new, count, progress, copied.demand_well)
        found = copied.result()
    told["media"] = asdict(found) if found else None
    return _facts(docker.stack, wanted, new, size, moment, client, told)


def _dump_away(
    away: backup_stream.Away, docker: Docker, report: Report, server: Container, session: backup_dump.Session,
    wanted: Database, new: Path, size: int,
) -> dict[str, Any]:  # fmt: skip
    """Do the same where the dump and the media files lie off-site only."""
    wanted = backup_role.settled(docker, server, wanted)
    if backup_role.reader(wanted) == wanted.user:
        report.say(f"    {backup_role.read_by_user(wanted)}")
    with backup_dump.snapshot(docker, session, wanted) as moment:
        client = away.client(session.client())
        with beside.begun(partial(_small_files, docker, server, wanted, new)) as small:
            told = away.dump(server, wanted, moment, client, size, small.demand_well)
    # A media file that a row names is older than the row, so what is read after the rows is there.
    return _facts(docker.stack, wanted, new, size, moment, client, {**told, **away.media()})


def _facts(
    stack: Stack, wanted: Database, new: Path, size: int, moment: backup_dump.Snapshot, client: backup_dump.Client,
    told: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Give what the manifest says; ``told`` is of the dump and the media files."""
    written = [new / name for name in (ROLES, CONFIGURATION, MEDIA_LIST) if (new / name).is_file()]
    files = told.get("files") or {DUMP: {name: told[name] for name in ("bytes", "sha256")}}
    files.update({one.name: {"bytes": streams.size_of(one), "sha256": verification.sha256(one)} for one in written})
    return {
        "made": round(time.time(), 3), "project": stack.project, "env": stack.env, "release": stack.release,
        "host": platform.node(),
        "database": wanted.name, "server": moment.server, "client": client.version, "database_bytes": size,
        "compression": client.compression, "rows": moment.rows, **told, "files": files,
    }  # fmt: skip


def _media(docker: Docker, report: Report, new: Path, dump: int, ending: beside.Ending) -> Optional[backup_media.Media]:
    """Copy the media files, and leave room for the dump, which will have so many bytes; None where there are none."""
    stack = docker.stack
    volume = stack.app_files.media_volume if stack.app_files else ""
    if not volume or not docker.has_volume(volume):
        return None

    def room_for(size: int) -> None:
        there = streams.size_of(new / DUMP) + streams.size_of(new / dump_feed.FOLDER)
        backup_room.demand(stack, {new: size + max(0, dump - there)})

    progress = streams.Progress(report, "media copied")
    return backup_media.copy(docker, volume, new, _earlier_media(stack.root), progress, room_for, ending)


def _small_files(docker: Docker, server: Container, wanted: Database, new: Path, ending: beside.Ending) -> None:
    """Write roles and configuration."""
    backup_dump.dump_globals(docker, server, wanted, new / ROLES, ending.demand_none)
    _pack_configuration(docker.stack, new / CONFIGURATION)


def _earlier_media(root: Path) -> Optional[Path]:
    """The newest backup whose list of media files is what was written: a damaged one must not spoil the next."""
    for told in _each(root):
        folder, wanted = root / FOLDER / str(told["id"]), told.get("files", {}).get(MEDIA_LIST)
        if wanted and (folder / MEDIA_LIST).is_file() and verification.sha256(folder / MEDIA_LIST) == wanted["sha256"]:
            return folder
    return None


def _pack_configuration(stack: Stack, target: Path) -> None:
    """Pack what the release was rendered to and its record, but no secret: those are the vault's."""
    paths = [stack.bundle / FILE_NAME, stack.bundle / stack.compose_file]
    paths += [path for path in (stack.bundle / "nginx").rglob("*") if path.is_file()]
    # Where secrets do not come as files, they stand among the variables.
    kept = (
        one for one in _lines(stack.bundle / f".env.{stack.env}") if one.partition("=")[0] not in stack.secret_variables
    )
    variables = "".join(kept).encode()
    records = stack.root / releases.RECORDS
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with (
        os.fdopen(descriptor, "wb") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(path for path in paths if path.is_file()):
            archive.add(path, path.relative_to(stack.bundle).as_posix(), recursive=False)
        for path in (records / f"{stack.release}.json", records / "base_images.json"):
            if path.is_file():
                archive.add(path, f"{releases.RECORDS}/{path.name}", recursive=False)
        entry = tarfile.TarInfo(f".env.{stack.env}")
        entry.size, entry.mode = len(variables), 0o600
        archive.addfile(entry, io.BytesIO(variables))
        archive.close()
        file.flush()
        os.fsync(file.fileno())


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []


def _demand_space(docker: Docker, folder: Path, size: int, *, restores: bool) -> None:
    """A compressed dump is smaller than the database it is of; the last one tells by how much."""
    before = newest(docker.stack.root, but=SAFETY)
    # Where the dump stays off-site nothing of size comes here.
    places = {folder: backup_room.for_dump(before, size) if docker.stack.backup.local_copy else 0}
    # A small one's test has its data in memory, a large one's there.
    engine = disk.engine_folder() if restores and size > throw_away.SMALL_BYTES else None
    if engine:
        places[engine] = size
    last = f"{int(before['bytes']) / 2**20:.0f} MiB" if before else "none"
    problem = f"The backup would not fit: database {size / 2**20:.0f} MiB, last dump {last}."
    backup_room.demand(docker.stack, places, problem)


def _tell(report: Report, done: Backup, why: str) -> None:
    """Say plainly what was shown of it, and what was not."""
    how = {
        CHECKSUM: "its checksums were written, it was not read back",
        verification.READ: f"all of it was read back{'; ' + why if why else ''}",
        RESTORE: f"it was restored, and all {sum(done.rows.values()):,} rows of {len(done.rows)} tables are there",
    }[done.level]
    report.say(f"    backup {done.id} verified by {done.level}: {how}; {backup_loss.media_figures(done.media)}")
    for name in (done.media or {}).get("changed", ())[: verification.SHOWN]:
        report.say(f"    media file {name!r} was written to whenever it was read; what was read last is kept")
    for name in (done.media or {}).get("left_out", ())[: verification.SHOWN]:
        report.say(f"    {name!r} among the media files was left out: no file, folder or link, or too long a path")
