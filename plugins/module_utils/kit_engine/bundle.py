"""A release's files: the hash that tells one content from another, and how they come onto a host."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from kit_engine.errors import EngineError

# Folders of the archive that a control node sends.
BUNDLE, HOST = "bundle", "host"


def content_hash(files: Iterable[tuple[str, bool, bytes]]) -> str:
    """Hash a bundle's content; it holds no id and no time, so the same content has the same hash everywhere.

    Args:
        files: path inside the bundle, whether it is executable, and content.

    Returns:
        SHA-256 in hexadecimal.
    """
    digest = hashlib.sha256()
    for name, executable, content in sorted(files):
        digest.update(f"{name}\0{int(executable)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def hash_of(folder: Path) -> str:
    """Hash the bundle that lies in a folder; empty where there is none."""
    if not folder.is_dir():
        return ""
    return content_hash(
        (path.relative_to(folder).as_posix(), bool(path.stat().st_mode & 0o100), path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    )


def unpack(stream: BinaryIO, target: Path) -> None:
    """Lay the files of an archive out, readable as the archive says and writable by nobody.

    Args:
        stream: a tar archive of plain files.
        target: an empty folder.

    Raises:
        EngineError: the archive is cut off, or holds something else than plain files below its root.
    """
    again = "repeat the command; nothing of the host was changed"
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                content = archive.extractfile(member) if member.isfile() else None
                if content is None or path.is_absolute() or ".." in path.parts:
                    raise EngineError("bundle", f"The archive holds {member.name}, which is no plain file.", again)
                place = target / path
                place.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
                # Created with its final mode: a secret is readable by nobody else at any moment.
                descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, member.mode & 0o555)
                with os.fdopen(descriptor, "wb") as file:
                    shutil.copyfileobj(content, file)
                    file.flush()
                    os.fsync(file.fileno())
                place.chmod(member.mode & 0o555)
    except (tarfile.TarError, EOFError) as error:
        raise EngineError("bundle", f"The release did not arrive whole: {error}.", again) from None
