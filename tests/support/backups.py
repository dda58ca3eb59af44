"""What tests of backups do to a host: rows and media files, damage, and what is left of containers."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kit_engine import media_writer, throw_away, verification
from kit_engine.backup import FOLDER, MANIFEST
from kit_engine.verification import DUMP

from support.engine_stack import docker
from support.host_releases import HostReleases

# What takes the room of a small disk.
FILLER = "filler"


def sql(host: HostReleases, statement: str, user: str = "") -> str:
    """Ask the database."""
    words = ["psql", "--no-align", "--tuples-only", f"--username={user or host.name}", f"--dbname={host.name}"]
    words.append("--set=ON_ERROR_STOP=1")
    return docker("exec", host.containers()["db"][0], *words, f"--command={statement}").strip()


def fill(host: HostReleases, rows: int) -> None:
    """Have just so many rows."""
    sql(host, f"TRUNCATE kit_rows; INSERT INTO kit_rows (text) SELECT md5(i::text) FROM generate_series(1, {rows}) i")  # noqa: S608 - a number


def databases(host: HostReleases) -> str:
    """Names of all databases of the server."""
    return sql(host, "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database")


def backed_up(host: HostReleases, *words: str) -> str:
    """Back up; gives the backup's id."""
    told = host.engine("backup", "--json", *words)
    assert told.code == 0, told.err
    return str(told.json["backup"]["id"])


def folder_of(host: HostReleases, given: str) -> Path:
    """Where a backup lies."""
    return host.root / FOLDER / given


def manifest_of(host: HostReleases, given: str) -> dict[str, Any]:
    """What a backup says of itself."""
    told: dict[str, Any] = json.loads((folder_of(host, given) / MANIFEST).read_text())
    return told


def reseal(folder: Path, **changed: Any) -> None:
    """Change a manifest as the kit itself would: the dump as it lies there, and what is given."""
    dump = {"bytes": (folder / DUMP).stat().st_size, "sha256": verification.sha256(folder / DUMP)}
    told = json.loads((folder / MANIFEST).read_text())
    told = {**told, **dump, "files": {**told["files"], DUMP: dump}, **changed}
    (folder / MANIFEST).write_text(json.dumps(verification.sealed(told)))


def flip(path: Path) -> None:
    """Turn one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def choose_engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the client take its engine by a context: nobody knows then whether it is this machine's.

    Args:
        folder: of the client's settings.
        monkeypatch: takes it back.
    """
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    docker("context", "create", "chosen", "--docker", "host=unix:///var/run/docker.sock")
    monkeypatch.setenv("DOCKER_CONTEXT", "chosen")


def media(host: HostReleases, *words: str) -> str:
    """Run a command in the folder of the media files, as the app does."""
    return docker("exec", "--workdir", "/var/app/media", host.containers()["web"][0], *words).strip()


def media_file(host: HostReleases, path: str, text: str) -> None:
    """Write a media file."""
    media(host, "python", "-c", "import sys; from pathlib import Path; path = Path(sys.argv[1]); "
          "path.parent.mkdir(exist_ok=True); path.write_text(sys.argv[2])", path, text)  # fmt: skip


def media_files(host: HostReleases) -> set[str]:
    """Paths of the media files, and of what a restore left that was cut off; not of those that it has replaced."""
    kept = f"./{media_writer.KEPT}"
    return set(media(host, "find", ".", "-path", kept, "-prune", "-o", "!", "-type", "d", "-print").splitlines())


def unfinished_media(host: HostReleases) -> bool:
    """Whether media files lie beside those in use that a restore has not put into place."""
    asked = f"import os; print(os.path.lexists({media_writer.PLACE!r}))"
    return {"True": True, "False": False}[media(host, "python", "-c", asked)]


def throw_aways(host: HostReleases, *filters: str) -> list[str]:
    """Names of containers that a backup made for a while, of all that Docker's filters let through."""
    label = f"label={throw_away.LABEL}={host.project}"
    return docker("ps", "--all", "--format", "{{.Names}}", "--filter", label, *filters).split()


def names(host: HostReleases) -> set[str]:
    """All that lies in the folder of backups, finished or not."""
    return {path.name for path in (host.root / FOLDER).glob("*")}


def until_step(running: subprocess.Popen[bytes], step: str) -> None:
    """Wait until a restore says that a step begins."""
    said = b""
    while f"] {step}".encode() not in said:
        part = running.stderr.read1(1)  # type: ignore[union-attr]  # it is a pipe
        assert part, said
        said += part


def until(seen: Callable[[], object], running: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until something is seen, while a program runs."""
    end = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < end
        assert running is None or running.poll() is None, running.communicate()
        time.sleep(0.02)


@contextmanager
def limits(host: HostReleases, **changed: Any) -> Iterator[None]:
    """Have the stack other settings for backups, or limits, for a while."""
    path = (host.root / "current").resolve() / "stack.json"
    before = path.read_text()
    told = json.loads(before)
    for group in ("backup", "limits"):
        told[group].update({name: value for name, value in changed.items() if name in told[group]})
    path.write_text(json.dumps(told))
    try:
        yield
    finally:
        path.write_text(before)


@contextmanager
def small_disk(host: HostReleases, mib: int) -> Iterator[None]:
    """Have the folder of backups lie on a disk of its own, which holds so much."""
    folder = host.root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", folder], check=True)
    try:
        with limits(host, min_free_bytes=1):
            yield
    finally:
        subprocess.run(["umount", folder], check=True)


def leave_room(host: HostReleases, size: int) -> None:
    """Fill that disk, all but so many bytes."""
    free = os.statvfs(host.root / FOLDER)
    (host.root / FOLDER / FILLER).write_bytes(b"x" * (free.f_bavail * free.f_frsize - size))
