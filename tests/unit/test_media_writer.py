"""Media files that come back are whole, or not there at all, wherever that is cut off."""

from __future__ import annotations

import io
import json
import os
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from kit_engine import media_reader, media_writer

WHEN = 10**18


def entry(path: str, content: bytes, **other: Any) -> dict[str, Any]:
    """A file as a backup lists it."""
    told = {"path": path, "kind": "file", "size": len(content), "sha256": sha256(content).hexdigest()}
    return {**told, "mtime_ns": WHEN, "mode": 0o640, "uid": os.getuid(), "gid": os.getgid(), **other}


def folder(path: str) -> dict[str, Any]:
    """A folder as a backup lists it."""
    return {"path": path, "kind": "folder", "mtime_ns": WHEN, "mode": 0o750, "uid": os.getuid(), "gid": os.getgid()}


def stage(place: Path, entries: list[dict[str, Any]], contents: list[bytes]) -> set[str]:
    """Lay a backup beside what is there; gives the digests that were asked for."""
    by_digest = {sha256(one).hexdigest(): one for one in contents}
    stdin = io.BytesIO("".join(json.dumps(one) + "\n" for one in entries).encode() + b"\n")
    stdin.seek(0, io.SEEK_END)
    for digest in sorted(by_digest):
        stdin.write(media_writer.LENGTH.pack(len(by_digest[digest])) + by_digest[digest] + media_writer.LENGTH.pack(0))
    stdin.seek(0)
    out = io.BytesIO()
    media_writer.stage(place, stdin, out)
    return set(out.getvalue().decode().split())


def content(place: Path) -> dict[str, str]:
    """Every file, by its path."""
    return {str(path.relative_to(place)): path.read_text() for path in place.rglob("*") if path.is_file()}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with media files."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_text("old")
    (tmp_path / "gone").write_text("gone")
    (tmp_path / "same").write_text("same")
    (tmp_path / "same").chmod(0o640)
    os.utime(tmp_path / "same", ns=(WHEN, WHEN))
    return tmp_path


ENTRIES = [
    folder("a"), folder("empty"), entry("a/x", b"new"), entry("a/y", b"new", mode=0o600), entry("b", b"b"),
    entry("same", b"same"), {"path": "link", "kind": "link", "target": "a/x", "uid": os.getuid(), "gid": os.getgid()},
]  # fmt: skip
NEW = {"a/x": "new", "a/y": "new", "b": "b", "link": "new", "same": "same"}
OLD = {"a/x": "old", "gone": "gone", "same": "same"}


def test_what_comes_back_is_as_it_was(place: Path) -> None:
    inode = (place / "same").stat().st_ino
    asked = stage(place, ENTRIES, [b"new", b"b"])
    # What is there already is not sent, and takes no room.
    assert asked == {sha256(b"new").hexdigest(), sha256(b"b").hexdigest()}
    assert {path: text for path, text in content(place).items() if not path.startswith(media_writer.PLACE)} == OLD
    media_writer.finish(place)
    assert content(place) == NEW
    assert (place / "same").stat().st_ino == inode
    assert (place / "a/y").stat().st_mode & 0o777 == 0o600
    assert (place / "a").stat().st_mtime_ns == WHEN
    assert list((place / "empty").iterdir()) == []
    assert (place / "link").is_symlink()
    # Again: there is nothing to do.
    media_writer.finish(place)
    assert content(place) == NEW


def test_what_is_not_to_come_leaves_nothing(place: Path) -> None:
    stage(place, ENTRIES, [b"new", b"b"])
    media_writer.drop(place)
    assert content(place) == OLD
    with pytest.raises(EOFError):
        stage(place, ENTRIES, [b"b"])
    # A backup meanwhile does not take the rest for media files.
    out = io.BytesIO()
    media_reader.send(str(place), io.BytesIO(), out)
    assert json.loads(out.getvalue().splitlines()[0]) == {"files": 3, "bytes": len("oldgonesame")}
    media_writer.drop(place)
    assert content(place) == OLD


@pytest.mark.parametrize("number", range(8))
def test_wherever_it_is_cut_off_it_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    stage(place, ENTRIES, [b"new", b"b"])
    done = 0
    rename = Path.rename

    def cut(self: Path, target: Path) -> Path:
        nonlocal done
        if done == number:
            raise KeyboardInterrupt
        done += 1
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", cut)
        # Three out, five in.
        with pytest.raises(KeyboardInterrupt):
            media_writer.finish(place)
    media_writer.finish(place)
    assert content(place) == NEW


def archive(*names: str) -> io.BytesIO:
    """What restic writes of a folder: all below one name; a name that ends in a slash is a folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as writing:
        for name in names:
            one = tarfile.TarInfo(f"_data/{name}".rstrip("/"))
            one.type = tarfile.DIRTYPE if name.endswith("/") or not name else tarfile.REGTYPE
            one.mode, one.mtime, one.uid, one.gid = 0o4750, WHEN // 10**9, os.getuid(), os.getgid()
            one.size = 0 if one.isdir() else len(name)
            writing.addfile(one, None if one.isdir() else io.BytesIO(name.encode()))
    out.seek(0)
    return out


def test_an_archive_is_laid_beside_what_is_there_and_put_into_place(place: Path) -> None:
    before = content(place)
    media_writer.unpack(place, archive("", "a/", "a/z", "top"), 2)
    assert {path: text for path, text in content(place).items() if not path.startswith(media_writer.PLACE)} == before
    media_writer.finish(place)
    assert content(place) == {"a/z": "a/z", "top": "top"}
    assert ((place / "a").stat().st_mtime_ns, (place / "top").stat().st_mode & 0o7777) == (WHEN, 0o4750)
    media_writer.unpack(place, archive(""), 0)
    media_writer.finish(place)
    assert content(place) == {}


# Within a file; and between two of them, each entry taking blocks of 512 bytes, after which tarfile sees an end.
@pytest.mark.parametrize(("length", "error"), [(1900, tarfile.TarError), (2048, EOFError), (1024, EOFError)])
def test_an_archive_that_is_cut_puts_nothing_into_place(place: Path, length: int, error: type[Exception]) -> None:
    before = content(place)
    whole = archive("", "a/", "a/z", "top").getvalue()
    with pytest.raises(error):
        media_writer.unpack(place, io.BytesIO(whole[:length]), 2)
    media_writer.drop(place)
    assert content(place) == before
