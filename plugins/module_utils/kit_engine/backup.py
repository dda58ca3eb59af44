"""A backup of the stack's own database: dumped, read back whole, and named in the release's record.

Each lies in a folder of its own under ``shared/backups``, which gets its final name last: what has none is no backup.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from calendar import timegm
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from kit_engine import __version__, command, database, disk, lock, releases
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report, duration
from kit_engine.stack import Database

FOLDER = "shared/backups"
DUMP, MANIFEST = "database.dump", "manifest.json"
SCHEMA = 1
# A 200 GB database on slow disks; a dump that still goes on after a day does not end.
LIMIT_SECONDS = 86_400.0
PROGRESS_SECONDS = 5.0
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Backup:
    """What is known of one backup.

    Attributes:
        id: UTC as in release ids, with the release that was to come.
        bytes: size of the dump.
        sha256: of the dump.
        level: how far it was verified: ``read`` (the whole of it through pg_restore).
        server: version of PostgreSQL, and of its own client that dumped it.
        seconds: that all of it took.
    """

    id: str
    project: str
    env: str
    release: str
    database: str
    server: str
    bytes: int
    sha256: str
    level: str
    seconds: float
    engine: str = __version__
    schema: int = SCHEMA

    def as_record(self) -> dict[str, Any]:
        """Give what a release's record says of it."""
        return {"id": self.id, "bytes": self.bytes, "level": self.level, "seconds": self.seconds}


def create(docker: Docker, report: Report) -> Backup:
    """Back the database up, and verify it.

    Args:
        docker: the stack's containers; its own database runs.
        report: where progress is told.

    Returns:
        The backup, which lies under its final name.

    Raises:
        EngineError: it failed; nothing of it is left, and earlier ones are untouched.
    """
    stack, begun = docker.stack, time.monotonic()
    wanted = stack.database
    if wanted is None:
        raise EngineError("backup", "An external database is backed up where it runs.", "see its provider's backups")
    folder = stack.root / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    _demand_space(docker, folder)
    given = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{stack.release or stack.env}"
    new = folder / f".new-{os.getpid()}"
    for left in folder.glob(".new-*"):
        # The lock is ours: whoever made it was cut off.
        shutil.rmtree(left)
    new.mkdir(mode=0o700)
    server = docker.running(wanted.service)
    try:
        _dump(docker, server, wanted, new / DUMP, report)
        _read_back(docker, server, new / DUMP)
        done = Backup(
            id=given,
            project=stack.project,
            env=stack.env,
            release=stack.release,
            database=wanted.name,
            server=database.server_version(docker),
            bytes=(new / DUMP).stat().st_size,
            sha256=sha256(new / DUMP),
            level="read",
            seconds=round(time.monotonic() - begun, 2),
        )
        releases.replace(new / MANIFEST, json.dumps(asdict(done), indent=2) + "\n")
        new.rename(folder / given)
        releases.sync_folder(folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return done


def listed(root: Path) -> list[dict[str, Any]]:
    """Describe the backups on this host, the newest first.

    Args:
        root: the deploy root.

    Returns:
        The manifest of each, with its ``age`` in seconds. What has no readable manifest is no backup.
    """
    found = []
    for path in sorted((root / FOLDER).glob("[0-9]*Z-*/" + MANIFEST), reverse=True):
        try:
            told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            made = timegm(time.strptime(told["id"][:16], "%Y%m%dT%H%M%SZ"))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found.append({**told, "age": max(0.0, time.time() - made)})
    return found


def line(told: dict[str, Any]) -> str:
    """Write a backup in one line: its id, size, age, and how far it was verified."""
    size = told["bytes"] / 2**20
    return f"{told['id']}, {size:.1f} MiB, {duration(told['age'])} ago, verified by {told['level']}"


def _demand_space(docker: Docker, folder: Path) -> None:
    """A compressed dump is smaller than the database it is of; the last one tells by how much."""
    size = database.size(docker)
    last = int(next((one["bytes"] for one in listed(docker.stack.root)), 0))
    wanted = min(size, last * 2) if last else size
    found = disk.problems([folder], docker.stack.limits.min_free_bytes + wanted)
    if found:
        problem = f"The backup would not fit: database {size / 2**20:.0f} MiB, last dump {last / 2**20:.0f} MiB."
        raise EngineError("backup", f"{problem} {found[0].problem} Nothing was changed.", found[0].remedy)


def _dump(docker: Docker, server: Container, wanted: Database, target: Path, report: Report) -> None:
    words = ["pg_dump", "--format=custom", "--no-password", f"--username={wanted.user}", f"--dbname={wanted.name}"]
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        # Straight into the file: its exit code is the dump's own.
        code, said = moved(["docker", "exec", server.id, *words], report, target, out=file)
        os.fsync(file.fileno())
    if code:
        raise EngineError(
            "backup",
            f"The database could not be backed up; pg_dump ended with {code}:\n"
            f"{command.tail(said)}\nNothing was changed.",
            docker.stack.make("logs", f"ARGS={wanted.service}"),
        )


def _read_back(docker: Docker, server: Container, dump: Path) -> None:
    """Have the server's own client read all of it: a table of contents alone passes for a dump that was cut."""
    with dump.open("rb") as file:
        words = ["docker", "exec", "--interactive", server.id, "pg_restore", "--file=/dev/null"]
        code, said = moved(words, None, dump, stdin=file)
    if code:
        raise EngineError(
            "backup",
            f"The backup cannot be read back; pg_restore ended with {code}:\n"
            f"{command.tail(said)}\nNothing was changed.",
            docker.stack.make("deploy") + "    (makes another one)",
        )


def moved(
    words: list[str],
    report: Report | None,
    target: Path,
    *,
    out: IO[bytes] | None = None,
    stdin: IO[bytes] | None = None,
) -> tuple[int, str]:
    """Run a program that moves much data.

    Args:
        words: program and arguments.
        report: told every few seconds how large the target is; None for no word.
        target: the file that grows.
        out: where its standard output goes.
        stdin: what it reads.

    Returns:
        Its exit code, and what it complained of.

    Raises:
        EngineError: it did not end within a day.
    """
    end, told = time.monotonic() + LIMIT_SECONDS, time.monotonic()
    with subprocess.Popen(  # noqa: S603 - an argument list of our own, no shell
        words, stdin=stdin or subprocess.DEVNULL, stdout=out or subprocess.DEVNULL, stderr=subprocess.PIPE,
        pass_fds=lock.inherited(),
    ) as running:  # fmt: skip
        try:
            while True:
                try:
                    said = running.communicate(timeout=1.0)[1]
                    break
                except subprocess.TimeoutExpired:
                    now = time.monotonic()
                    if now > end:
                        raise EngineError(
                            "backup", f"The dump has not ended after {LIMIT_SECONDS / 3600:.0f} h.", "docker info"
                        ) from None
                    if report and now - told > PROGRESS_SECONDS:
                        report.say(f"    {target.stat().st_size / 2**20:.0f} MiB")
                        told = now
        except BaseException:
            running.kill()
            raise
    return running.returncode, said.decode("utf-8", "replace")


def sha256(path: Path) -> str:
    """Hash a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while True:
            part = file.read(_CHUNK)
            if not part:
                return digest.hexdigest()
            digest.update(part)
