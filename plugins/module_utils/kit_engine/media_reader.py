"""Read a media volume from inside a container, and write what is new in it to standard output.

Run by the engine as ``python -c <this file> <folder>`` in the project's own image, whose Python is there for certain;
it imports nothing of the kit. :mod:`kit_engine.backup_media` is the other end.

Standard input: one JSON array for each file that the engine has already, ``[path, size, mtime_ns, ctime_ns, sha256]``.
Standard output: lines that tell how many bytes were read to be compared, a line with the sum of what is to come, then
a line for each entry. A file that is new is followed by its content in pieces, each after its length in four bytes, a
piece of length 0, and a line on what became of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

# A file that changes while it is read is read anew; one that is written without end would never be whole.
ATTEMPTS = 3
PIECE = 1 << 20
# It is told how far comparing is after so many bytes, which take a disk about a second.
TELL_BYTES = 256 << 20
LENGTH = struct.Struct(">I")
# What a restore that was cut off has left (media_writer.PLACE) is no media file.
RESTORING = ".kit-restore"
WHOLE, AGAIN, CHANGED, GONE = "whole", "again", "changed", "gone"


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
    # Gone through twice: to keep a million entries would take more memory than there is here.
    for entry in _entries(folder, known):
        if entry["kind"] != "file" or entry["same"]:
            continue
        if _is_known(folder, entry, known):
            compared += entry["size"]
        else:
            files, total = files + 1, total + entry["size"]
        if compared - told >= TELL_BYTES:
            told = compared
            _line(out, {"compared": compared})
            out.flush()
    _line(out, {"files": files, "bytes": total})
    for entry in _entries(folder, known):
        _line(out, entry)
        if entry["kind"] == "file" and not entry["same"]:
            _content(os.path.join(folder, entry["path"]), out)  # noqa: PTH118 - as os.walk gives them, by the thousand
    _line(out, {"end": True})
    out.flush()


def _is_known(folder: str, entry: dict[str, Any], known: dict[str, tuple[int, int, int, bytes]]) -> bool:
    """Whether a file has the content that is known of it all the same; noted, so that it is found to be the same next.

    A restore gives all files a new time of change (ctime), as do chmod and rename: to read them is less than to copy.
    """
    size, mtime, _, digest = known.get(entry["path"], (-1, 0, 0, b""))
    if (entry["size"], entry["mtime_ns"]) != (size, mtime):
        return False
    found = hashlib.sha256()
    try:
        with open(os.path.join(folder, entry["path"]), "rb", buffering=0) as file:  # noqa: PTH118, PTH123 - as below
            while piece := file.read(PIECE):
                found.update(piece)
    except FileNotFoundError:
        return False
    if found.digest() != digest:
        return False
    # One that changed meanwhile has another ctime than this by now.
    known[entry["path"]] = (size, mtime, entry["ctime_ns"], digest)
    return True


def _entries(folder: str, known: dict[str, tuple[int, int, int, bytes]]) -> Iterator[dict[str, Any]]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if place != folder or name != RESTORING)
        for name in sorted([*folders, *files]):
            path = os.path.join(place, name)  # noqa: PTH118 - as above
            try:
                entry = _described(os.lstat(path))
                if entry["kind"] == "link":
                    entry["target"] = os.readlink(path)  # noqa: PTH115 - as above
            except FileNotFoundError:
                continue
            inside = path[len(folder) + 1 :]
            seen = (entry["size"], entry["mtime_ns"], entry["ctime_ns"])
            yield {"path": inside, **entry, "same": entry["kind"] == "file" and known.get(inside, ())[:3] == seen}


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


def _content(path: str, out: BinaryIO) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - as above
                before = _described(os.fstat(file.fileno()))
                length = 0
                while True:
                    piece = file.read(PIECE)
                    out.write(LENGTH.pack(len(piece)) + piece)
                    if not piece:
                        break
                    length += len(piece)
                after = _described(os.fstat(file.fileno()))
        except FileNotFoundError:
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


if __name__ == "__main__":
    send(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)
