"""Bring media files back from inside a container: all beside those in use first, then into their place by renames.

Run by the engine as ``python -c <this file> <folder> <what>`` in the project's own image; it imports nothing of the
kit. :mod:`kit_engine.restore_media` is the other end.

``stage`` reads the entries of a backup's list, one JSON object a line, up to an empty line; it answers with the digests
that it has not got, one a line, up to an empty line, and reads the content of each in that order: in pieces, each after
its length in four bytes, the last of length 0. ``unpack`` does the same with a tar archive, whose number of
files follows. ``finish`` puts it into place, and goes on where it was cut off; ``drop`` removes what is not in use.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

# Inside the media folder, since a rename does not leave a file system.
PLACE = ".kit-restore"
LENGTH = struct.Struct(">I")
_NEW, _OLD, _CONTENT, _ALL_OUT = "new", "old", "content", "all-out"
_PIECE = 1 << 20


def stage(folder: Path, stdin: BinaryIO, out: BinaryIO) -> None:
    """Lay all that is to come beside what is in use.

    Args:
        folder: of the media files.
        stdin: the list, then the content.
        out: where the digests go.
    """
    drop(folder)
    place = folder / PLACE
    (place / _CONTENT).mkdir(parents=True, mode=0o700)
    (place / _NEW).mkdir()
    entries = [json.loads(line) for line in iter(stdin.readline, b"\n")]
    files = [one for one in entries if one["kind"] == "file"]
    # What is there as it shall be is linked, not copied.
    missing = sorted({one["sha256"] for one in files if not _is_same(folder / one["path"], one)})
    for digest in missing:
        out.write(digest.encode() + b"\n")
    out.write(b"\n")
    out.flush()
    for digest in missing:
        with (place / _CONTENT / digest).open("wb") as file:
            while True:
                length = LENGTH.unpack(_exactly(stdin, LENGTH.size))[0]
                if not length:
                    break
                file.write(_exactly(stdin, length))
    uses = Counter(one["sha256"] for one in files)
    got = {digest: uses[digest] for digest in missing}
    for one in entries:
        _lay(folder, place, one, got)
    # Folders last: what is laid into them changes their times.
    for one in reversed([one for one in entries if one["kind"] == "folder"]):
        _dress(place / _NEW / one["path"], one)
    shutil.rmtree(place / _CONTENT)
    os.sync()


def unpack(folder: Path, stdin: BinaryIO, files: int) -> None:
    """Lay all that a tar archive holds beside what is in use, as :func:`stage` does.

    Args:
        folder: of the media files.
        stdin: the archive, of one folder with all of them.
        files: how many there are to be: one that ends between two of them looks whole.
    """
    drop(folder)
    place = folder / PLACE
    place.mkdir(mode=0o700)
    with tarfile.open(fileobj=stdin, mode="r|") as archive:
        # As they were: newer versions of Python would leave owners and some modes out.
        archive.extraction_filter = lambda one, _: one
        found: Counter[bool] = Counter()
        inside = _inside(archive, found)
        archive.extractall(place / _NEW, inside, numeric_owner=True)  # noqa: S202 - it is of this very folder
    if found[True] < files:
        raise EOFError(f"the archive ended after {found[True]} of {files} files")
    (place / _NEW).mkdir(exist_ok=True)
    os.sync()


def _inside(archive: tarfile.TarFile, found: Counter[bool]) -> Iterator[tarfile.TarInfo]:
    """Give what lies in the folder, and count what is a file and what is not."""
    for one in archive:
        one.name = one.name.rstrip("/").partition("/")[2]
        if one.name:
            found[one.isreg()] += 1
            yield one


def finish(folder: Path) -> None:
    """Put it into place: everything out first, then everything in. May be cut off anywhere, and called again."""
    place = folder / PLACE
    if not place.is_dir():
        return
    (place / _OLD).mkdir(exist_ok=True)
    if not (place / _ALL_OUT).exists():
        for path in folder.iterdir():
            if path.name != PLACE:
                path.rename(place / _OLD / path.name)
        (place / _ALL_OUT).touch()
        os.sync()
    for path in (place / _NEW).iterdir():
        path.rename(folder / path.name)
    os.sync()
    shutil.rmtree(place)


def drop(folder: Path) -> None:
    """Remove what was laid there and never came into use."""
    if (folder / PLACE).is_dir():
        shutil.rmtree(folder / PLACE)


def _is_same(path: Path, wanted: dict[str, Any]) -> bool:
    try:
        seen = path.lstat()
        told = (seen.st_size, seen.st_mtime_ns, seen.st_mode & 0o7777, seen.st_uid, seen.st_gid)
        if told != tuple(wanted[name] for name in ("size", "mtime_ns", "mode", "uid", "gid")) or path.is_symlink():
            return False
        digest = hashlib.sha256()
        with path.open("rb") as file:
            for piece in iter(lambda: file.read(_PIECE), b""):
                digest.update(piece)
    except OSError:
        return False
    return bool(digest.hexdigest() == wanted["sha256"])


def _lay(folder: Path, place: Path, one: dict[str, Any], got: dict[str, int]) -> None:
    target = place / _NEW / one["path"]
    if one["kind"] == "folder":
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if one["kind"] == "link":
        target.symlink_to(one["target"])
        os.chown(target, one["uid"], one["gid"], follow_symlinks=False)
    elif one["sha256"] in got:
        content = place / _CONTENT / one["sha256"]
        if got[one["sha256"]] == 1:
            content.rename(target)
        else:
            # Another path wants the same content, maybe with another owner.
            shutil.copyfile(content, target)
        _dress(target, one)
    else:
        os.link(folder / one["path"], target)


def _dress(path: Path, one: dict[str, Any]) -> None:
    os.chown(path, one["uid"], one["gid"])
    path.chmod(one["mode"])
    os.utime(path, ns=(one["mtime_ns"], one["mtime_ns"]))


def _exactly(stream: BinaryIO, length: int) -> bytes:
    piece = stream.read(length)
    if len(piece) < length:
        raise EOFError("the content ended early")
    return piece


if __name__ == "__main__":
    if sys.argv[2] == "stage":
        stage(Path(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
    elif sys.argv[2] == "unpack":
        unpack(Path(sys.argv[1]), sys.stdin.buffer, int(sys.argv[3]))
    elif sys.argv[2] == "finish":
        finish(Path(sys.argv[1]))
    else:
        drop(Path(sys.argv[1]))
