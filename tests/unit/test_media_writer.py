"""Media files that come back are whole, or not there at all, wherever that is cut off."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import shutil
import sys
import tarfile
import tracemalloc
from collections.abc import Callable
from functools import partial
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
    for digest in dict.fromkeys(one["sha256"] for one in entries if one.get("sha256") in by_digest):
        stdin.write(media_writer.LENGTH.pack(len(by_digest[digest])) + by_digest[digest] + media_writer.LENGTH.pack(0))
    stdin.seek(0)
    out = io.BytesIO()
    media_writer.stage(place, stdin, out)
    return set(out.getvalue().decode().split())


def content(place: Path) -> dict[str, str]:
    """Every file but those that an earlier restore has replaced, by its path."""
    found = {str(path.relative_to(place)): path.read_text() for path in place.rglob("*") if path.is_file()}
    return {path: text for path, text in found.items() if not path.startswith(media_writer.KEPT)}


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
# What the database from before is called.
BEFORE = "site_before_20261129_120000"
NEW = {"a/x": "new", "a/y": "new", "b": "b", "link": "new", "same": "same"}
OLD = {"a/x": "old", "gone": "gone", "same": "same"}


def test_what_comes_back_is_as_it_was(place: Path) -> None:
    inode = (place / "same").stat().st_ino
    asked = stage(place, ENTRIES, [b"new", b"b"])
    # What is there already is not sent, and takes no room.
    assert asked == {sha256(b"new").hexdigest(), sha256(b"b").hexdigest()}
    assert {path: text for path, text in content(place).items() if not path.startswith(media_writer.PLACE)} == OLD
    media_writer.finish(place, BEFORE)
    assert content(place) == NEW
    assert (place / "same").stat().st_ino == inode
    assert (place / "a/y").stat().st_mode & 0o777 == 0o600
    assert (place / "a").stat().st_mtime_ns == WHEN
    assert list((place / "empty").iterdir()) == []
    assert (place / "link").is_symlink()
    # Again: there is nothing to do.
    media_writer.finish(place, BEFORE)
    assert content(place) == NEW
    # Those from before are there, for nobody but root.
    assert content(place / media_writer.KEPT / BEFORE) == OLD
    assert (place / media_writer.KEPT).stat().st_mode & 0o777 == 0o700


def test_what_stayed_goes_with_its_database(place: Path) -> None:
    for name in ("first", "second"):
        stage(place, ENTRIES, [b"new", b"b"])
        media_writer.finish(place, name)
    media_writer.forget(place, ["second", "another"])
    assert [path.name for path in (place / media_writer.KEPT).iterdir()] == ["second"]
    assert content(place) == NEW
    media_writer.forget(place, [])
    assert list((place / media_writer.KEPT).iterdir()) == []


@pytest.mark.parametrize("change", ["content", "mode", "nothing"])
def test_what_the_app_wrote_to_since_is_laid_anew(place: Path, change: str) -> None:
    stage(place, ENTRIES, [b"new", b"b"])
    if change == "content":
        # In place: it is the very file that was laid beside it.
        (place / "same").write_text("by the app")
    elif change == "mode":
        (place / "same").chmod(0o604)
    out = io.BytesIO()
    lines = "".join(json.dumps(one) + "\n" for one in ENTRIES).encode() + b"\n"
    sent = media_writer.LENGTH.pack(4) + b"same" + media_writer.LENGTH.pack(0)
    media_writer.again(place, io.BytesIO(lines + (b"" if change == "nothing" else sent)), out)
    assert out.getvalue().decode().split() == ([] if change == "nothing" else [sha256(b"same").hexdigest()])
    media_writer.finish(place, BEFORE)
    assert content(place) == NEW
    assert (place / "same").stat().st_mode & 0o777 == 0o640
    kept = place / media_writer.KEPT / BEFORE / "same"
    assert kept.read_text() == ("by the app" if change == "content" else "same")


def test_what_is_not_to_come_leaves_nothing(place: Path) -> None:
    stage(place, ENTRIES, [b"new", b"b"])
    media_writer.drop(place)
    assert content(place) == OLD
    # What the reader passes over is just what the writer leaves.
    assert media_reader.RESTORING == (media_writer.PLACE, media_writer.KEPT)
    (place / media_writer.KEPT / BEFORE).mkdir(parents=True)
    (place / media_writer.KEPT / BEFORE / "kept").write_text("kept")
    with pytest.raises(EOFError):
        stage(place, ENTRIES, [b"b"])
    # A backup meanwhile does not take the rest for media files.
    out = io.BytesIO()
    media_reader.send(str(place), io.BytesIO(), out)
    assert json.loads(out.getvalue().splitlines()[0]) == {"files": 3, "bytes": len("oldgonesame")}
    media_writer.drop(place)
    assert content(place) == OLD


# What changes the folder: of the functions that Python's own code calls too, each of its calls.
STEPS = ("rename", "unlink", "rmdir", "mkdir")


class Cut:
    """Cuts off what runs, before the step of some number."""

    def __init__(self, patched: pytest.MonkeyPatch, number: int) -> None:
        self.left = number
        for name in STEPS:
            patched.setattr(os, name, partial(self._step, getattr(os, name)))

    def _step(self, step: Callable[..., object], *given: Any, **named: Any) -> object:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return step(*given, **named)


@pytest.mark.parametrize("first", [False, True])
def test_wherever_it_is_cut_off_it_goes_on(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, *, first: bool
) -> None:
    cuts = 0
    for number in range(100):
        at = tmp_path.with_name(f"{tmp_path.name}-{number}")
        shutil.copytree(place, at, symlinks=True)
        if not first:
            (at / media_writer.KEPT).mkdir(mode=0o700)
        stage(at, ENTRIES, [b"new", b"b"])
        with monkeypatch.context() as patched:
            Cut(patched, number)
            try:
                media_writer.finish(at, BEFORE)
            except KeyboardInterrupt:
                cuts += 1
        media_writer.finish(at, BEFORE)
        assert content(at) == NEW, number
        assert content(at / media_writer.KEPT / BEFORE) == OLD, number
        assert not (at / media_writer.PLACE).exists()
        if cuts <= number:
            break
    # Three out, five in, one kept; and what is removed behind them.
    assert cuts > 3 + 5 + 1 + 2


def test_what_the_app_writes_after_a_cut_is_neither_lost_nor_in_the_way(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "c").mkdir()
    (place / "c/x").write_text("old")
    cuts = 0
    for number in range(100):
        at = tmp_path.with_name(f"{tmp_path.name}-{number}")
        shutil.copytree(place, at, symlinks=True)
        stage(at, [*ENTRIES, folder("c"), entry("c/y", b"b")], [b"new", b"b"])
        with monkeypatch.context() as patched:
            Cut(patched, number)
            try:
                media_writer.finish(at, BEFORE)
            except KeyboardInterrupt:
                cuts += 1
        # Wherever something has gone out, or is still to come.
        lacking = [path for path in ("a/x", "a/z", "b", "c/x", "c/z", "gone") if not (at / path).exists()]
        for path in lacking:
            (at / path).parent.mkdir(exist_ok=True)
            (at / path).write_text("since")
        media_writer.finish(at, BEFORE)
        found, kept = content(at), content(at / media_writer.KEPT / BEFORE)
        if cuts <= number:
            break
        assert found.items() >= (NEW | {"c/y": "b"}).items(), number
        assert kept.items() >= (OLD | {"c/x": "old"}).items(), number
        since = [text for path, text in (*found.items(), *kept.items()) if text == "since" and path != "link"]
        assert len(since) == len(lacking), number
        assert not (at / media_writer.PLACE).exists()
    assert cuts > 3 + 5 + 1 + 2


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
    media_writer.finish(place, BEFORE)
    assert content(place) == {"a/z": "a/z", "top": "top"}
    assert ((place / "a").stat().st_mtime_ns, (place / "top").stat().st_mode & 0o7777) == (WHEN, 0o4750)
    media_writer.unpack(place, archive(""), 0)
    media_writer.finish(place, "another")
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


def test_an_owner_that_cannot_be_set_is_no_success(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the engine's containers have users of their own, among which the file's owner is none."""

    def refused(*_: object, **_more: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", refused)
    with pytest.raises(tarfile.ExtractError, match="could not change owner"):
        media_writer.unpack(place, archive("", "top"), 1)


# A container of the kit has 1 GiB (throw_away.MEMORY), and media may be ten million files.
BYTES_PER_FILE = 64
Work = Callable[[], object]


@pytest.fixture
def grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path, int], Work]], float]:
    """Gives the bytes that each further file takes at the most: what some and four times as many take, compared."""
    # By which pathlib keeps names in a table of Python's own, that grows when it likes.
    monkeypatch.setattr(sys, "intern", str)

    def measured(work: Callable[[Path, int], Work]) -> float:
        few, many, peaks = 800, 2400, []
        # Python keeps some small objects for later: first of all it does so.
        for turn, number in enumerate((many, few, many)):
            place = tmp_path / str(turn)
            place.mkdir()
            run = work(place, number)
            gc.collect()
            if turn:
                tracemalloc.start()
            run()
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        return (peaks[2] - peaks[1]) / (many - few)

    return measured


@pytest.mark.parametrize("again", [False, True])
def test_memory_does_not_grow_with_files_that_are_laid(
    tmp_path: Path, grown: Callable[[Callable[[Path, int], Work]], float], *, again: bool
) -> None:
    def work(place: Path, number: int) -> Work:
        contents = [str(one).encode() for one in range(number)]
        entries = [entry(f"{one[-2:].decode()}/{one.decode()}", one) for one in contents]
        if again:
            stage(place, entries, contents)
            entries = [{**one, "mtime_ns": WHEN + 1} for one in entries]
        # Outside of Python's memory.
        given = tmp_path / "given"
        with given.open("wb") as file:
            file.writelines(json.dumps(one).encode() + b"\n" for one in entries)
            file.write(b"\n")
            length = media_writer.LENGTH
            file.writelines(length.pack(len(one)) + one + length.pack(0) for one in contents)

        def run() -> None:
            with given.open("rb") as stdin, Path(os.devnull).open("wb") as out:
                (media_writer.again if again else media_writer.stage)(place, stdin, out)

        return run

    assert grown(work) < BYTES_PER_FILE


def test_memory_does_not_grow_with_files_that_are_unpacked(
    grown: Callable[[Callable[[Path, int], Work]], float],
) -> None:
    def work(place: Path, number: int) -> Work:
        packed = archive("", *(f"{one % 100}-{one}" for one in range(number)))
        return lambda: media_writer.unpack(place, packed, number)

    assert grown(work) < BYTES_PER_FILE
