"""A backup: the database, roles and grants, media files, the release's configuration; verified before it counts.

Each lies in a folder of its own under ``shared/backups``, which gets its final name last: what has none is no backup.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import time
from calendar import timegm
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional

from kit_engine import (
    __version__,
    backup_dump,
    backup_media,
    backup_role,
    command,
    database,
    disk,
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

FOLDER = "shared/backups"
MANIFEST = "manifest.json"
# What a cut off run left of one; nobody takes it for a backup.
UNFINISHED = ".new-"
_STAMP, _STAMP_LENGTH = "%Y%m%dT%H%M%SZ", 16


@dataclass(frozen=True)
class Backup:
    """What is known of one backup; its manifest holds the same, sealed.

    Attributes:
        id: UTC as in release ids, with the release that was to come; later ones sort behind, whatever the clock does.
        made: seconds since 1970, by this host's clock.
        server: version of PostgreSQL; ``client`` that of the pg_dump in its image.
        bytes: size of the dump; ``sha256`` of it.
        database_bytes: what the database took on the server's disk.
        compression: of the dump.
        files: size in ``bytes`` and ``sha256`` of each file but the media's, whose list is among them.
        rows: by table, in the very snapshot that was dumped.
        media: files, bytes, and which changed while they were read; None where the project has none in a volume.
        level: how far it was verified: ``checksum``, ``read`` (all of it through pg_restore), ``restore`` (into a
            server of its own, and the rows counted).
        seconds: that all of it took.
    """

    id: str
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
    engine: str = __version__
    schema: int = SEALED_SCHEMA

    def as_record(self) -> dict[str, Any]:
        """Give what a release's record says of it."""
        return {"id": self.id, "bytes": self.bytes, "level": self.level, "seconds": self.seconds}


def create(docker: Docker, report: Report, level: str = "") -> Backup:
    """Back the stack up, and verify it.

    Args:
        docker: the stack's containers; its own database runs.
        report: where progress is told.
        level: how far it is verified; empty: as far as the environment says.

    Returns:
        The backup, which lies under its final name.

    Raises:
        EngineError: it failed; nothing of it is left, and earlier ones are untouched.
    """
    stack = docker.stack
    wanted = stack.database
    if wanted is None:
        raise EngineError("backup", "An external database is backed up where it runs.", "see its provider's backups")
    folder = stack.root / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for left in folder.glob(f"{UNFINISHED}*"):
        # The lock is ours: whoever made it was cut off.
        shutil.rmtree(left)
    throw_away.remove_left(docker)
    server = docker.running(wanted.service)
    size = database.size(docker)
    reached, why = verification.level_for(docker, size, level)
    _demand_space(docker, folder, size, restores=reached == RESTORE)
    new = folder / f"{UNFINISHED}{os.getpid()}"
    new.mkdir(mode=0o700)
    try:
        done = _fill(docker, report, server, wanted, new, size, reached)
        new.rename(folder / done.id)
        releases.sync_folder(folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        with suppress(EngineError):
            backup_role.end_sessions(server, wanted)
        raise
    _tell(report, done, why)
    return done


def listed(root: Path) -> list[dict[str, Any]]:
    """Describe the backups on this host, the newest first.

    Args:
        root: the deploy root.

    Returns:
        The manifest of each, with its ``age`` in seconds. What has none that is as it was written is no backup.
    """
    return list(_each(root))


def newest(root: Path) -> Optional[dict[str, Any]]:
    """Describe the newest backup as :func:`listed` does; None where there is none."""
    return next(_each(root), None)


def line(told: dict[str, Any]) -> str:
    """Write a backup in one line: its id, size, age, and how far it was verified."""
    size = told["bytes"] / 2**20
    return f"{told['id']}, {size:.1f} MiB, {duration(told['age'])} ago, verified by {told['level']}"


def free_id(root: Path, release: str) -> str:
    """Give the id of a backup that is made now: behind all that there are, even if the clock was set back.

    Args:
        root: the deploy root.
        release: what follows the time.
    """
    moment = int(time.time())
    for name in _names(root)[:1]:
        moment = max(moment, _time_of(name) + 1)
    return f"{time.strftime(_STAMP, time.gmtime(moment))}-{release}"


def _names(root: Path) -> list[str]:
    """All folders that bear the name of a backup, the newest first."""
    found = []
    for path in (root / FOLDER).glob("[0-9]*Z-*"):
        with suppress(ValueError):
            _time_of(path.name)
            found.append(path.name)
    return sorted(found, reverse=True)


def _time_of(name: str) -> int:
    return timegm(time.strptime(name[:_STAMP_LENGTH], _STAMP))


def _each(root: Path) -> Iterator[dict[str, Any]]:
    for name in _names(root):
        try:
            told: dict[str, Any] = json.loads((root / FOLDER / name / MANIFEST).read_text(encoding="utf-8"))
            if told["id"] == name and verification.is_sealed(told):
                yield {**told, "age": max(0.0, time.time() - told.get("made", _time_of(name)))}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue


def _fill(
    docker: Docker, report: Report, server: Container, wanted: Database, new: Path, size: int, level: str
) -> Backup:
    """Write everything into the new folder, the manifest last, and verify it."""
    stack, begun = docker.stack, time.monotonic()
    before = newest(stack.root)
    backup_role.ensure(docker, server, wanted)
    with backup_dump.snapshot(docker, server, wanted) as moment:
        # As small beside the database as the last one was; the first is smaller than the database.
        last = before["bytes"] * size // max(1, before.get("database_bytes", size)) if before else size
        progress = streams.Progress(report, "dumped", last, about=True)
        compression = backup_dump.dump(docker, server, wanted, moment.id, new / DUMP, progress)
    backup_dump.dump_globals(docker, server, wanted, new / ROLES)
    _pack_configuration(stack, new / CONFIGURATION)
    media = None
    if stack.app_files and stack.app_files.media_volume and docker.has_volume(stack.app_files.media_volume):
        media = backup_media.copy(
            docker, stack.app_files.media_volume, new, _earlier_media(stack.root),
            streams.Progress(report, "media copied"), lambda wanted: _demand_room(docker, {new: wanted}),
        )  # fmt: skip
    names = [name for name in (DUMP, ROLES, CONFIGURATION, MEDIA_LIST) if (new / name).is_file()]
    files = {name: {"bytes": streams.size_of(new / name), "sha256": verification.sha256(new / name)} for name in names}
    facts: dict[str, Any] = {
        "made": round(time.time(), 3), "project": stack.project, "env": stack.env, "release": stack.release,
        "database": wanted.name, "server": database.server_version(docker),
        "client": backup_dump.client_version(docker, server), **files[DUMP], "database_bytes": size,
        "compression": compression, "files": files, "rows": moment.rows, "media": asdict(media) if media else None,
    }  # fmt: skip
    if level != CHECKSUM:
        verification.reach(docker, report, server, wanted, new, facts, level)
    done = Backup(
        id=free_id(stack.root, stack.release or stack.env), level=level, seconds=round(time.monotonic() - begun, 2),
        **facts,
    )  # fmt: skip
    releases.replace(new / MANIFEST, json.dumps(verification.sealed(asdict(done)), indent=2) + "\n")
    (new / MANIFEST).chmod(0o600)
    return done


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
    before = newest(docker.stack.root)
    last = int(before["bytes"]) if before else 0
    places = {folder: min(size, last * 2) if last else size}
    told = command.run(["docker", "info", "--format", "{{.DockerRootDir}}"]).out.strip()
    if restores and told:
        # The server that it is restored into for a test has its data there.
        places[Path(told)] = size
    problem = f"The backup would not fit: database {size / 2**20:.0f} MiB, last dump {last / 2**20:.0f} MiB."
    _demand_room(docker, places, problem)


def _demand_room(docker: Docker, places: dict[Path, int], problem: str = "The media files would not fit.") -> None:
    """Each disk must take all that goes to it, and have left what the stack wants free."""
    disks: dict[int, tuple[Path, int]] = {}
    for place, wanted in places.items():
        # The engine's folder lies elsewhere when it is in a virtual machine.
        if place.is_dir():
            first, sum_of = disks.get(place.stat().st_dev, (place, 0))
            disks[place.stat().st_dev] = (first, sum_of + wanted)
    for place, wanted in disks.values():
        found = disk.problems([place], docker.stack.limits.min_free_bytes + wanted)
        if found:
            raise EngineError("backup", f"{problem} {found[0].problem} Nothing was changed.", found[0].remedy)


def _tell(report: Report, done: Backup, why: str) -> None:
    """Say plainly what was shown of it, and what was not."""
    how = {
        CHECKSUM: "its checksums were written, it was not read back",
        verification.READ: f"all of it was read back{'; ' + why if why else ''}",
        RESTORE: f"it was restored, and all {sum(done.rows.values()):,} rows of {len(done.rows)} tables are there",
    }[done.level]
    report.say(f"    backup {done.id} verified by {done.level}: {how}")
    for name in (done.media or {}).get("changed", ())[: verification.SHOWN]:
        report.say(f"    media file {name!r} was written to whenever it was read; what was read last is kept")
    for name in (done.media or {}).get("left_out", ())[: verification.SHOWN]:
        report.say(f"    {name!r} among the media files is neither file nor folder nor link, and was left out")
