"""Read a media volume, and write what is new in it to standard output.

Run by the engine as ``python -c <this file> <folder>`` where the volume lies, or inside a container of the project's
own image, whose Python is there for certain; it imports nothing of the kit. :mod:`kit_engine.backup_media` is the other
end. The app may change the folder any time, and we may be root: no link is followed out of it, as each file is opened
by its folder's descriptor.

Standard input: one JSON array for each file that the engine has already, ``[path, size, mtime_ns, ctime_ns, sha256]``.
Standard output: lines that tell how many bytes were read to be compared, a line with the sum of what is to come, then
a line for each entry. A file that is new is followed by its content in pieces, each after its length in four bytes, a
piece of length 0, and a line on what became of it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

# A file that changes while it is read is read anew; one that is written without end would never be whole.
ATTEMPTS = 3
PIECE = 1 << 20
# It is told how far comparing is after so many bytes, which take a disk about a second.
TELL_BYTES = 256 << 20
LENGTH = struct.Struct(">I")
# What a restore that was cut off has left, and what it has replaced (media_writer.PLACE, KEPT), are no media files.
RESTORING = (".kit-restore", ".kit-before")
# The system takes no path of more than 4096 bytes, and what brings files back writes below a folder of its own.
LONGEST = 4000
WHOLE, AGAIN, CHANGED, GONE = "whole", "again", "changed", "gone"
# Of a folder and nothing else; what came into its place is not even opened.
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# How it is told that something went, or became something else, since it was listed.
_WENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)
# What is known of ten million files; a container has its own limit.
_MEMORY_BYTES = 4 << 30


def send(folder: str, stdin: BinaryIO, out: BinaryIO) -> None:
    """Write everything below a folder.

    Args:
        folder: of the media files, without a slash at its end.
        stdin: the files that need not be sent.
        out: where to.
    """
    known: dict[str, tuple[int, int, int, bytes]] = {}
    for line in stdin:
        path, size, mtime, ctime, digest = json.loads(line)
        known[path] = (size, mtime, ctime, bytes.fromhex(digest))
    files = total = compared = told = 0

    def passed(length: int) -> None:
        nonlocal compared, told
        compared += length
        if compared - told >= TELL_BYTES:
            # Whoever is gone by now is found out by it, too.
            told = compared
            _line(out, {"compared": compared})
            out.flush()

    # Gone through twice: to keep a million entries would take more memory than there is here.
    for entry, place, name in _entries(folder, known):
        if entry["kind"] != "file" or entry["same"]:
            continue
        if not _is_known(entry, place, name, known, passed):
            files, total = files + 1, total + entry["size"]
    _line(out, {"files": files, "bytes": total})
    for entry, place, name in _entries(folder, known):
        _line(out, entry)
        if entry["kind"] == "file" and not entry["same"]:
            _content(place, name, out)
    _line(out, {"end": True})
    out.flush()


def _is_known(
    entry: dict[str, Any], place: int, name: str, known: dict[str, tuple[int, int, int, bytes]],
    passed: Callable[[int], None],
) -> bool:  # fmt: skip
    """Whether a file has the content that is known of it all the same; noted, so that it is found to be the same next.

    A restore gives all files a new time of change (ctime), as do chmod and rename: to read them is less than to copy.
    """
    size, mtime, _, digest = known.get(entry["path"], (-1, 0, 0, b""))
    if (entry["size"], entry["mtime_ns"]) != (size, mtime):
        return False
    found = hashlib.sha256()
    try:
        with _opened(place, name) as file:
            while piece := file.read(PIECE):
                found.update(piece)
                passed(len(piece))
    except _GoneError:
        return False
    if found.digest() != digest:
        return False
    # One that changed meanwhile has another ctime than this by now.
    known[entry["path"]] = (size, mtime, entry["ctime_ns"], digest)
    return True


def _entries(folder: str, known: dict[str, tuple[int, int, int, bytes]]) -> Iterator[tuple[dict[str, Any], int, str]]:
    """Give each entry with the descriptor of its folder, open until the next is asked for, and its name there."""
    place, inside = os.open(folder, _FOLDER), ""
    # The folders that we are in, by their descriptors, and which of theirs are still to come; no call for each: the app
    # may have made a thousand, each in the one before.
    levels: list[tuple[int, str, list[str]]] = []
    while True:
        left: list[str] = []
        for name in sorted(os.listdir(place)):  # noqa: PTH208 - by its descriptor
            if name in RESTORING and not inside:
                continue
            try:
                entry = _described(os.stat(name, dir_fd=place, follow_symlinks=False))
                if entry["kind"] == "link":
                    entry["target"] = os.readlink(name, dir_fd=place)
            except OSError as error:
                if error.errno in _WENT:
                    continue
                raise
            if len(os.fsencode(inside + name)) > LONGEST:
                # The app cannot open it by its path either; told as left out.
                entry["kind"] = "other"
            if entry["kind"] == "folder":
                left.append(name)
            seen = (entry["size"], entry["mtime_ns"], entry["ctime_ns"])
            same = entry["kind"] == "file" and known.get(inside + name, ())[:3] == seen
            yield {"path": inside + name, **entry, "same": same}, place, name
        # The first is taken from the end.
        levels.append((place, inside, left[::-1]))
        found = _next(levels)
        if found is None:
            return
        place, inside = found


def _next(levels: list[tuple[int, str, list[str]]]) -> tuple[int, str] | None:
    """Open the next folder, and close those that are gone through; None where there is none."""
    while levels:
        place, inside, left = levels[-1]
        while left:
            name = left.pop()
            try:
                return os.open(name, _FOLDER, dir_fd=place), f"{inside}{name}/"
            except OSError as error:
                # Any other reason would leave a folder out that is there.
                if error.errno not in _WENT:
                    raise
        os.close(place)
        levels.pop()
    return None


class _GoneError(Exception):
    """There is no such file any more."""


def _opened(place: int, name: str) -> BinaryIO:
    """Open a file by its name in a folder; raises _GoneError where there is none, or something else by now."""
    try:
        # Not yet for reading: what came into its place may be a link that leads elsewhere, or a pipe.
        looked = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=place)
    except FileNotFoundError as error:
        raise _GoneError from error
    try:
        if not stat.S_ISREG(os.fstat(looked).st_mode):
            raise _GoneError
        return open(f"/proc/self/fd/{looked}", "rb", buffering=0)  # noqa: PTH123 - whoever asked for it closes it
    finally:
        os.close(looked)


def _described(found: os.stat_result) -> dict[str, Any]:
    kinds = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "folder"), (stat.S_ISLNK, "link"))
    return {
        "kind": next((kind for test, kind in kinds if test(found.st_mode)), "other"),
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "mode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
    }


def _content(place: int, name: str, out: BinaryIO) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with _opened(place, name) as file:
                before = _described(os.fstat(file.fileno()))
                length = 0
                while True:
                    piece = file.read(PIECE)
                    out.write(LENGTH.pack(len(piece)) + piece)
                    if not piece:
                        break
                    length += len(piece)
                after = _described(os.fstat(file.fileno()))
        except _GoneError:
            out.write(LENGTH.pack(0))
            _line(out, {"state": GONE})
            return
        steady = before == after and length == after["size"]
        state = WHOLE if steady else AGAIN if attempt < ATTEMPTS else CHANGED
        _line(out, {"state": state, **after, "size": length})
        if state != AGAIN:
            return


def _line(out: BinaryIO, told: dict[str, Any]) -> None:
    out.write(json.dumps(told).encode("ascii") + b"\n")


def limit() -> None:
    """Take as many descriptors as we may, one a level of folders, and no more memory than was meant."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or most > _MEMORY_BYTES:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, most))


if __name__ == "__main__":
    limit()
    send(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)
