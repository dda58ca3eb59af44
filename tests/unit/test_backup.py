"""Parts of a backup that need no engine: what it is named, sealed and told by, and how media files are read."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit_engine import backup, backup_dump, backup_media, media_reader, media_writer, stack, streams, verification
from kit_engine.beside import Ending
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report
from support.kit import ROOT

SERVER = Container("id", "db-1", "db", "image", "image", "running", 0, "", "", 0)
TOLD: dict[str, Any] = {"id": "20260101T000000Z-a", "schema": 2, "bytes": 1, "level": "read", "rows": {"public.a": 2}}


def test_a_seal_tells_of_any_change() -> None:
    sealed = verification.sealed(TOLD)
    assert verification.is_sealed(json.loads(json.dumps(sealed)))
    assert not verification.is_sealed(TOLD)
    for name in TOLD:
        assert not verification.is_sealed({**sealed, name: "other"})
    # Those of the first schema had none.
    assert verification.is_sealed({**TOLD, "schema": 1})


def test_no_flipped_bit_of_a_manifest_goes_unseen() -> None:
    content = (json.dumps(verification.sealed(TOLD), indent=2) + "\n").encode()
    for place in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            try:
                told = json.loads(changed.decode())
                accepted = isinstance(told, dict) and verification.is_sealed(told)
            except ValueError:
                continue
            # A change between two kinds of white space changes nothing.
            assert not accepted or told == json.loads(content), (place, bit)


def test_what_is_listed_has_a_manifest_as_it_was_written(tmp_path: Path) -> None:
    folder = tmp_path / backup.FOLDER
    contents = {
        "20260101T000000Z-a": json.dumps(verification.sealed(TOLD)),
        "20260102T000000Z-another-id": json.dumps(verification.sealed(TOLD)),
        "20260103T000000Z-changed": json.dumps({**verification.sealed(TOLD), "id": "20260103T000000Z-changed"}),
        "20260104T000000Z-cut": "{",
        "20260105T000000Z-list": "[]",
        ".new-17": json.dumps(verification.sealed({**TOLD, "id": ".new-17"})),
        "20269999T000000Z-no-time": json.dumps(verification.sealed({**TOLD, "id": "20269999T000000Z-no-time"})),
    }
    for name, text in contents.items():
        (folder / name).mkdir(parents=True)
        (folder / name / backup.MANIFEST).write_text(text)
    (folder / "20260106T000000Z-none").mkdir()
    assert [one["id"] for one in backup.listed(tmp_path)] == ["20260101T000000Z-a"]


@pytest.mark.parametrize("offset", [-86_400, 0, 86_400])
def test_ids_rise_whatever_the_clock_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int) -> None:
    made = []
    now = time.time()
    for number in range(4):
        monkeypatch.setattr(time, "time", lambda number=number: now + number * offset)
        made.append(backup.free_id(tmp_path, "r"))
        (tmp_path / backup.FOLDER / made[-1]).mkdir(parents=True)
    assert made == sorted(set(made))


def test_progress_names_bytes_and_percent() -> None:
    assert streams.Progress(None, "dumped", 80 << 20, about=True).text(12 << 20) == "dumped 12 of about 80 MiB (15 %)"
    # A guess that was short.
    assert streams.Progress(None, "dumped", 80 << 20).text(90 << 20) == "dumped 90 of 80 MiB (99 %)"
    assert streams.Progress(None, "dumped").text(5 << 20) == "dumped 5 MiB"


def test_rows_are_read_whatever_a_table_is_named() -> None:
    assert backup_dump.rows_of(['["public.\\"a|b\\nc\\"", 3]', "SET", '["public.d", 0]']) == {
        'public."a|b\nc"': 3,
        "public.d": 0,
    }


def read(folder: Path, known: list[list[Any]] | None = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Have a folder sent; gives the sum, and each entry with its ``content`` and the ``states`` of its sendings."""
    out = io.BytesIO()
    media_reader.send(str(folder), io.BytesIO("".join(json.dumps(one) + "\n" for one in known or ()).encode()), out)
    out.seek(0)
    while "compared" in (total := json.loads(out.readline())):
        pass
    entries: list[dict[str, Any]] = []
    while True:
        entry = json.loads(out.readline())
        if "end" in entry:
            assert out.read() == b""
            return total, entries
        entries.append(entry)
        if entry["kind"] == "file" and not entry["same"]:
            entry["states"] = []
            while not entry["states"] or entry["states"][-1] == media_reader.AGAIN:
                entry["content"] = b""
                while length := media_reader.LENGTH.unpack(out.read(media_reader.LENGTH.size))[0]:
                    entry["content"] += out.read(length)
                entry["states"].append(json.loads(out.readline())["state"])


def test_everything_below_the_folder_is_sent_once(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c.txt").write_text("text")
    (tmp_path / "link").symlink_to("a/b/c.txt")
    (tmp_path / "empty").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    # No name of UTF-8.
    strange = os.fsdecode(b"\xff\n.bin")
    (tmp_path / strange).write_bytes(b"x" * (media_reader.PIECE + 1))
    total, entries = read(tmp_path)
    assert total == {"files": 3, "bytes": 4 + media_reader.PIECE + 1}
    kinds = {one["path"]: one["kind"] for one in entries}
    assert kinds == {
        "a": "folder", "a/b": "folder", "a/b/c.txt": "file", "link": "link", "empty": "file", "pipe": "other",
        strange: "file",
    }  # fmt: skip
    assert {one["path"]: one["content"] for one in entries if "content" in one} == {
        "a/b/c.txt": b"text", "empty": b"", strange: b"x" * (media_reader.PIECE + 1),
    }  # fmt: skip
    known = known_of(entries)
    total, again = read(tmp_path, known)
    assert total == {"files": 0, "bytes": 0}
    assert [one["path"] for one in again if one.get("same")] == [path for path, *_ in known]


def known_of(entries: list[dict[str, Any]]) -> list[list[Any]]:
    """What an engine knows that has received them."""
    return [
        [one["path"], one["size"], one["mtime_ns"], one["ctime_ns"], hashlib.sha256(one["content"]).hexdigest()]
        for one in entries if one["kind"] == "file"
    ]  # fmt: skip


def test_a_file_with_another_ctime_is_sent_only_where_its_content_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("linked", "other", "touched", "untouched"):
        (tmp_path / name).write_text(name)
    known = known_of(read(tmp_path)[1])
    time.sleep(0.02)
    # As a restore does with those that are there already.
    os.link(tmp_path / "linked", tmp_path / "new")
    (tmp_path / "linked").unlink()
    (tmp_path / "new").rename(tmp_path / "linked")
    was = (tmp_path / "other").stat()
    (tmp_path / "other").write_text("rehto")
    os.utime(tmp_path / "other", ns=(was.st_atime_ns, was.st_mtime_ns))
    os.utime(tmp_path / "touched")
    monkeypatch.setattr(media_reader, "TELL_BYTES", 1)
    monkeypatch.setattr(media_reader, "PIECE", 2)
    total, entries = read(tmp_path, known)
    # Also within a file, and of one that is another: whoever is gone is found out by that.
    out = io.BytesIO()
    media_reader.send(str(tmp_path), io.BytesIO("".join(json.dumps(one) + "\n" for one in known).encode()), out)
    assert out.getvalue().count(b'"compared"') == len("linked") / 2 + len("rehto") // 2 + 1
    assert total == {"files": 2, "bytes": len("rehto" + "touched")}
    assert {one["path"]: one.get("content") for one in entries} == {
        "linked": None, "other": b"rehto", "touched": b"touched", "untouched": None,
    }  # fmt: skip
    # What is listed is how it is now.
    (linked,) = (one for one in entries if one["path"] == "linked")
    assert linked["ctime_ns"] == (tmp_path / "linked").stat().st_ctime_ns


def swap(monkeypatch: pytest.MonkeyPatch, path: Path, what: str, target: str) -> None:
    """Have the app put something else in a place between our look at it and the opening; a link leads to the target."""
    line = media_reader._line
    ways: dict[str, Callable[[], object]] = {
        "link": lambda: path.symlink_to(target), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir,
        "file": path.touch, "nothing": lambda: None,
    }  # fmt: skip

    def told_of(out: io.BytesIO, told: dict[str, Any]) -> None:
        if told.get("path") == path.name:
            (path.rmdir if path.is_dir() else path.unlink)()
            ways[what]()
        line(out, told)

    monkeypatch.setattr(media_reader, "_line", told_of)


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_what_came_into_a_files_place_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    inside = tmp_path / "media"
    inside.mkdir()
    (tmp_path / "secret").write_text("of somebody else")
    path = inside / "file"
    path.write_text("mine")
    swap(monkeypatch, path, what, "../secret")
    _, (entry,) = read(inside)
    assert (entry["content"], entry["states"]) == (b"", ["gone"])


@pytest.mark.parametrize("what", ["link", "pipe", "file", "nothing"])
def test_what_came_into_a_folders_place_is_not_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    inside = tmp_path / "media"
    (inside / "folder").mkdir(parents=True)
    (inside / "later").mkdir()
    (inside / "later/file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/secret").write_text("of somebody else")
    (inside / "to-folder").symlink_to(tmp_path / "other")
    path = inside / "folder"
    swap(monkeypatch, path, what, "../other")
    _, entries = read(inside)
    assert [one["path"] for one in entries] == ["folder", "later", "to-folder", "later/file"]


def test_a_folder_that_may_not_be_read_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    given = os.open

    def refuse(path: Any, flags: int, *more: Any, **others: Any) -> int:
        if path == "folder":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return given(path, flags, *more, **others)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError):
        read(tmp_path)


def test_folders_are_read_however_deep_they_are(tmp_path: Path) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    place = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1_200):
        os.mkdir("a", dir_fd=place)
        below = os.open("a", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=place))
    os.close(place)
    program = [sys.executable, "-I", "-c", Path(media_reader.__file__).read_text(), str(tmp_path)]
    done = subprocess.run(program, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    # Python's own way goes no deeper than its calls may.
    subprocess.run(["rm", "--recursive", str(tmp_path / "a")], timeout=60, check=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0]) == {"files": 1, "bytes": 0}
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == most


def test_what_has_a_longer_path_than_a_restore_could_make_is_left_out_and_told(tmp_path: Path) -> None:
    place = os.open(tmp_path, os.O_RDONLY)
    for _ in range(42):
        os.mkdir("a" * 100, dir_fd=place)
        below = os.open("a" * 100, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    (tmp_path / "file").write_text("x")
    _, entries = read(tmp_path)
    kinds = [(len(one["path"]), one["kind"]) for one in entries if one["kind"] != "folder"]
    assert kinds == [(4, "file"), (40 * 101 - 1, "other")]
    kept = [one for one in entries if one["kind"] == "folder"]
    target = tmp_path / "target"
    target.mkdir()
    lines = "".join(json.dumps(one) + "\n" for one in kept).encode() + b"\n"
    media_writer.stage(target, io.BytesIO(lines), io.BytesIO())
    subprocess.run(["rm", "--recursive", str(tmp_path / ("a" * 100)), str(target)], timeout=60, check=True)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        # It ends before it has taken what is known.
        ("import sys; print('MemoryError: no more'); sys.exit(1)", "MemoryError: no more"),
        # It fails in the midst of a file, and says so where the next piece would be.
        ("import sys; sys.stdin.read(); print('{\"files\": 1, \"bytes\": 1}'); print('{\"path\": \"a\", "
         "\"kind\": \"file\", \"size\": 1, \"same\": false}', flush=True); raise OSError('bad disk')", "bad disk"),
    ],
)  # fmt: skip
def test_why_media_files_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    docker, _ = own(tmp_path)
    kept = {f"{number}": (1, 1, 1, "0" * 64) for number in range(50_000)}
    monkeypatch.setattr(backup_media, "_kept", lambda *_: kept)
    monkeypatch.setattr(backup_media, "reader", lambda *_: [sys.executable, "-c", script])
    progress = streams.Progress(Report("backup", as_json=True, stream=io.StringIO()), "media copied")
    with pytest.raises(EngineError, match=said):
        backup_media.copy(docker, "media", tmp_path, None, progress, lambda _: None, Ending())


def test_it_is_told_how_far_comparing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker, _ = own(tmp_path)
    monkeypatch.setattr(streams, "PROGRESS_SECONDS", -1)
    lines = [{"compared": 3 << 20}, {"files": 0, "bytes": 0}, {"end": True}]
    stream = io.BytesIO("".join(json.dumps(one) + "\n" for one in lines).encode())
    said = io.StringIO()
    progress = streams.Progress(Report("backup", as_json=True, stream=said), "media copied")
    done = backup_media._take(docker, stream, tmp_path, None, {}, progress, lambda _: None)
    assert (done.files, done.copied) == (0, 0)
    assert "media compared 3 MiB" in said.getvalue()


@pytest.mark.parametrize(
    ("change", "states"),
    [
        (lambda path, times: path.write_text(f"{times} times"), ["again", "again", "changed"]),
        (lambda path, times: path.write_text("once") if times == 1 else None, ["again", "whole"]),
        (lambda path, times: path.unlink() if times == 1 else None, ["again", "gone"]),
    ],
)
def test_a_file_that_changes_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path, int], None], states: list[str]
) -> None:
    path = tmp_path / "file"
    path.write_text("at first")
    times = 0
    pack = media_reader.LENGTH.pack

    class Changing:
        """Changes the file whenever a piece of it was read."""

        size = media_reader.LENGTH.size

        def pack(self, length: int) -> bytes:
            nonlocal times
            if length:
                times += 1
                time.sleep(0.02)
                change(path, times)
            return pack(length)

        unpack = staticmethod(media_reader.LENGTH.unpack)

    monkeypatch.setattr(media_reader, "LENGTH", Changing())
    _, (entry,) = read(tmp_path)
    assert entry["states"] == states


def have_docker(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have a shell's script in the place of Docker's client."""
    program = folder / "docker"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def own(folder: Path) -> tuple[Docker, stack.Database]:
    """A stack that runs its database itself."""
    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    found = Docker(stack.read(data, folder, folder / "releases/one"))
    assert found.stack.database is not None
    return found, found.stack.database


ASKED: tuple[Callable[[backup_dump.Session], object], ...] = (
    backup_dump.Session.size,
    backup_dump.Session.client,
    lambda session: backup_dump.snapshot(session.docker, session, session.wanted).__enter__(),
)


@pytest.mark.parametrize("asked", ASKED)
def test_a_session_that_never_answers_is_given_up_in_a_minute_and_not_in_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Callable[[backup_dump.Session], object]
) -> None:
    have_docker(tmp_path, monkeypatch, "exec sleep 30")
    monkeypatch.setattr(backup_dump, "FIRST_SECONDS", 0.3)
    found, database = own(tmp_path)
    begun = time.monotonic()
    with (
        pytest.raises(EngineError, match="no answer within"),
        backup_dump.opened(found, SERVER, database) as session,
    ):
        asked(session)
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("late", [False, True])
def test_what_the_client_says_of_itself_may_come_at_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """It is asked beside the session, and no row that was counted before it answered is lost."""
    client = "echo 'client zstd:3 pg_dump (PostgreSQL) 16.10 (Debian 16.10-1)'"
    answers = (
        f"""SELECT*bytes*) echo '{{"bytes" : 7}}'; {"" if late else client};;""",
        """SELECT*snapshot*) echo WARNING; echo '{"server" : "16.10", "snapshot" : "3-1"}'; """
        f"""echo '["public.a", 3]'; {client if late else ""}; echo '["public.b", 0]';;""",
    )
    script = f"while read -r line; do case $line in {' '.join(answers)} esac; done".replace("; ;", ";")
    have_docker(tmp_path, monkeypatch, script)
    found, database = own(tmp_path)
    with backup_dump.opened(found, SERVER, database) as session:
        assert session.size() == 7
        with backup_dump.snapshot(found, session, database) as moment:
            assert (moment.id, moment.server) == ("3-1", "16.10")
            assert session.client() == backup_dump.Client("16.10", "zstd:3")
        assert moment.rows == {"public.a": 3, "public.b": 0}


def test_a_program_that_has_ended_is_not_late_however_long_the_block_goes_on() -> None:
    """What fails then, such as a restore that follows a dump, keeps its own words."""

    def fail_later() -> None:
        with streams.open_to(["true"], 0.2) as (running, _, _):
            running.wait()
            time.sleep(0.4)
            raise EngineError("backup", "of its own", "")

    with pytest.raises(EngineError, match="of its own"):
        fail_later()


def test_of_a_foreign_server_nobody_is_told_that_the_role_cannot_be_made_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says, refuses = "'\\echo '*) echo \"${line#* }\"", "SET*) echo 'ERROR:  permission denied to set role'; exit 3"
    have_docker(tmp_path, monkeypatch, f"while read -r line; do case $line in {says};; {refuses};; esac; done")
    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    found = Docker(stack.read(data, tmp_path, tmp_path / "releases/one"))
    database = stack.External("there", "", "image", "site", "site", host="db.test", role="kit_backup")
    with (
        pytest.raises(EngineError) as caught,
        backup_dump.opened(found, SERVER, database) as session,
        backup_dump.snapshot(found, session, database),
    ):
        pass
    problem = "Database site (server db.test:5432) does not let role kit_backup read it:\n    ERROR:  permission denied"
    assert caught.value.problem.startswith(problem)


@pytest.mark.parametrize("programs", [("nice", "ionice"), ("nice",), ()])
def test_the_dump_comes_after_everything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: tuple[str, ...]
) -> None:
    """Whichever of the programs for that the image has."""
    ionice = shutil.which("ionice")
    assert ionice
    image = tmp_path / "image"
    image.mkdir()
    for name in ("sh", *programs):
        (image / name).symlink_to(str(shutil.which(name)))
    pg_dump = image / "pg_dump"
    pg_dump.write_text(f"#!/bin/sh\n{shutil.which('nice')}\n{ionice}\n")
    pg_dump.chmod(0o755)
    have_docker(tmp_path, monkeypatch, f'shift 2; export PATH={image}; exec "$@"')
    found, wanted = own(tmp_path)
    moment, client, target = backup_dump.Snapshot("0-1", "16.10"), backup_dump.Client("16.10", "gzip"), tmp_path / "out"
    backup_dump.dump(found, SERVER, wanted, moment, client, target, streams.Progress(None, ""), lambda: None)
    niceness, rank = target.read_text().splitlines()
    assert int(niceness) == os.nice(0) + (10 if "nice" in programs else 0)
    assert (rank == "best-effort: prio 7") == ("ionice" in programs)


def test_the_session_goes_when_the_dump_has_begun_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, gone = tmp_path / "dump", tmp_path / "gone"
    have_docker(
        tmp_path, monkeypatch, f"sleep 1.5; printf begun; while [ ! -e {gone} ]; do sleep 0.05; done; printf ' ended'"
    )
    begun: list[str] = []

    def taken() -> None:
        begun.append(target.read_text())
        gone.touch()

    found, wanted = own(tmp_path)
    moment, client = backup_dump.Snapshot("0000-1", "16.10", taken=taken), backup_dump.Client("16.10", "gzip")
    digest = backup_dump.dump(found, SERVER, wanted, moment, client, target, streams.Progress(None, ""), lambda: None)
    assert begun[0] == "begun"
    assert digest == hashlib.sha256(b"begun ended").hexdigest()
