"""Bring media files back from inside a container: all beside those in use first, then into their place by renames.

Run by the engine as ``python -c <this file> <folder> <what>`` in the project's own image; it imports nothing of the
kit. :mod:`kit_engine.restore_media` is the other end.

``stage`` reads the entries of a backup's list, one JSON object a line, up to an empty line; it answers with the digests
that it has not got, one a line, up to an empty line, and reads the content of each in that order: in pieces, each after
its length in four bytes, the last of length 0. ``again`` does the same for those that were written to since, once
nobody writes any more. ``unpack`` lays a tar archive, whose number of files follows. ``finish`` puts it into place, and
goes on where it was cut off: what was in use stays under a name that follows. ``drop`` removes what is not in use,
``forget`` what stayed, but for the names that follow.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import struct
import sys
import tarfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any, BinaryIO

# Inside the media folder, since a rename does not leave a file system; only root enters them (media_reader.RESTORING).
PLACE = ".kit-restore"
# Under the name of the database that went with them, the media files that a restore has replaced.
KEPT = ".kit-before"
# Among those: what the app wrote where another file belongs, after a restore was cut off between its renames.
ASIDE = ".kit-since"
LENGTH = struct.Struct(">I")
_NEW, _OLD, _CONTENT, _ALL_OUT = "new", "old", "content", "all-out"
# In the folder of the content: the list, and the digests in the order in which their content comes.
_LIST, _ASKED = "list", "asked"
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
    _keep_list(place, stdin)
    # What is there as it shall be is linked, not copied.
    _ask(place, (one for one in _listed(place, "file") if not _is_same(folder / one["path"], one)), out)
    _take(place, stdin)
    for one in _listed(place):
        _lay(folder, place, one)
    # Folders last: what is laid into them changes their times.
    for one in _listed(place, "folder"):
        _dress(place / _NEW / one["path"], one)
    shutil.rmtree(place / _CONTENT)
    os.sync()


def again(folder: Path, stdin: BinaryIO, out: BinaryIO) -> None:
    """Lay those anew that share their file with one in use, which somebody has written to since.

    Args:
        folder: of the media files; nobody writes there any more.
        stdin: the list, then the content.
        out: where the digests go.
    """
    place = folder / PLACE
    (place / _CONTENT).mkdir(mode=0o700)
    _keep_list(place, stdin)

    def changed() -> Iterator[dict[str, Any]]:
        # Whoever writes to a file changes its time: to hash all of them would take the site away for as long.
        return (one for one in _listed(place, "file") if not _seems_same(place / _NEW / one["path"], one))

    _ask(place, changed(), out)
    _take(place, stdin)
    for one in changed():
        target = place / _NEW / one["path"]
        times = target.parent.stat()
        target.unlink(missing_ok=True)
        _lay(folder, place, one)
        os.utime(target.parent, ns=(times.st_atime_ns, times.st_mtime_ns))
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
        # Else it would pass over an owner or a mode that cannot be set.
        archive.errorlevel = 2
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
        # It would keep all of them, to be asked for by name.
        archive.members = []  # type: ignore[attr-defined]  # typeshed leaves it out
        one.name = one.name.rstrip("/").partition("/")[2]
        if one.name:
            found[one.isreg()] += 1
            yield one


def finish(folder: Path, name: str) -> None:
    """Put it into place: everything out first, then everything in. May be cut off anywhere, and called again.

    Args:
        folder: of the media files.
        name: that those in use bear from then on, in :data:`KEPT`.
    """
    place = folder / PLACE
    if not place.is_dir():
        return
    new, old = place / _NEW, place / _OLD
    if new.is_dir():
        if not (place / _ALL_OUT).exists():
            old.mkdir(exist_ok=True)
            for path in folder.iterdir():
                if path.name not in (PLACE, KEPT):
                    _join(path, old / path.name, old / ASIDE)
            (place / _ALL_OUT).touch()
            os.sync()
        for path in new.iterdir():
            if os.path.lexists(folder / path.name):
                _join(folder / path.name, path, old / ASIDE)
            path.rename(folder / path.name)
        os.sync()
        # It is empty. That it is gone says that all is in, whatever of the rest has gone before a cut.
        new.rmdir()
        os.sync()
    if old.is_dir():
        (folder / KEPT).mkdir(mode=0o700, exist_ok=True)
        old.rename(folder / KEPT / name)
        os.sync()
    shutil.rmtree(place)


def _join(path: Path, into: Path, aside: Path) -> None:
    """Rename; where that was begun, cut off, and the app has written since, put both together.

    Args:
        path: what is there now.
        into: where it goes. Folders become one; neither of two files is lost.
        aside: folder for what finds its place taken, by its name, or that with a number where it is not the first.
    """
    if not os.path.lexists(into):
        path.rename(into)
    elif all(stat.S_ISDIR(one.lstat().st_mode) for one in (path, into)):
        for one in path.iterdir():
            _join(one, into / one.name, aside / path.name)
        path.rmdir()
    else:
        aside.mkdir(parents=True, exist_ok=True)
        names = chain([path.name], (f"{path.name}.{number}" for number in count(1)))
        path.rename(next(aside / name for name in names if not os.path.lexists(aside / name)))


def drop(folder: Path) -> None:
    """Remove what was laid there and never came into use."""
    if (folder / PLACE).is_dir():
        shutil.rmtree(folder / PLACE)


def forget(folder: Path, names: Collection[str]) -> None:
    """Remove what stayed of earlier restores, but for some.

    Args:
        folder: of the media files.
        names: of those that stay.
    """
    if (folder / KEPT).is_dir():
        for path in (folder / KEPT).iterdir():
            if path.name not in names:
                shutil.rmtree(path)


def _keep_list(place: Path, stdin: BinaryIO) -> None:
    """Write the list down, to go through it several times: millions of entries would take more memory than there is."""
    with (place / _CONTENT / _LIST).open("wb") as file:
        file.writelines(iter(stdin.readline, b"\n"))


def _listed(place: Path, kind: str = "") -> Iterator[dict[str, Any]]:
    """Give the entries of a kind; of each, where none is named."""
    with (place / _CONTENT / _LIST).open("rb") as file:
        for line in file:
            one: dict[str, Any] = json.loads(line)
            if kind in ("", one["kind"]):
                yield one


def _ask(place: Path, wanted: Iterable[dict[str, Any]], out: BinaryIO) -> None:
    """Ask for the content of some files, each once."""
    with (place / _CONTENT / _ASKED).open("wb") as asked:
        for one in wanted:
            content = _content(place, one["sha256"])
            if not content.exists():
                content.parent.mkdir(exist_ok=True)
                content.touch()
                for file in (asked, out):
                    file.write(one["sha256"].encode() + b"\n")
    out.write(b"\n")
    out.flush()


def _take(place: Path, stdin: BinaryIO) -> None:
    """Write down what comes."""
    with (place / _CONTENT / _ASKED).open("rb") as asked:
        for line in asked:
            with _content(place, line.decode().strip()).open("wb") as file:
                while True:
                    length = LENGTH.unpack(_exactly(stdin, LENGTH.size))[0]
                    if not length:
                        break
                    file.write(_exactly(stdin, length))


def _content(place: Path, digest: str) -> Path:
    """Where it lies; in many folders, since to remove one lists it in memory."""
    return place / _CONTENT / digest[:2] / digest


def _seems_same(path: Path, wanted: dict[str, Any]) -> bool:
    try:
        seen = path.lstat()
    except OSError:
        return False
    told = (seen.st_size, seen.st_mtime_ns, seen.st_mode & 0o7777, seen.st_uid, seen.st_gid)
    asked = tuple(wanted[name] for name in ("size", "mtime_ns", "mode", "uid", "gid"))
    return stat.S_ISREG(seen.st_mode) and told == asked


def _is_same(path: Path, wanted: dict[str, Any]) -> bool:
    if not _seems_same(path, wanted):
        return False
    try:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            for piece in iter(lambda: file.read(_PIECE), b""):
                digest.update(piece)
    except OSError:
        return False
    return bool(digest.hexdigest() == wanted["sha256"])


def _lay(folder: Path, place: Path, one: dict[str, Any]) -> None:
    target = place / _NEW / one["path"]
    if one["kind"] == "folder":
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if one["kind"] == "link":
        target.symlink_to(one["target"])
        os.chown(target, one["uid"], one["gid"], follow_symlinks=False)
    elif (content := _content(place, one["sha256"])).exists():
        if content.stat().st_nlink == 1:
            os.link(content, target)
        else:
            # Another path has the same content, maybe with another owner.
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
    # Before Python 3.12 rmtree calls itself for each level of folders, and the app may have made a thousand.
    sys.setrecursionlimit(10_000)
    _folder, _what, _further = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if _what in ("stage", "again"):
        (stage if _what == "stage" else again)(_folder, sys.stdin.buffer, sys.stdout.buffer)
    elif _what == "unpack":
        unpack(_folder, sys.stdin.buffer, int(_further[0]))
    elif _what == "finish":
        finish(_folder, _further[0])
    elif _what == "forget":
        forget(_folder, _further)
    else:
        drop(_folder)
