"""By how many processes a database is dumped and loaded, and what they are started as."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kit_engine import backup_dump, client, command, docker_socket, dump_feed, jobs, parallel, stack, streams
from kit_engine.docker import Container, Docker
from kit_engine.dump_feed import Fed
from kit_engine.errors import EngineError
from kit_engine.report import Report
from kit_engine.stack import Database, External
from support.kit import ROOT

GIB = 2**30
MADE = Container("made", "loader", "", "image", "image", "running", 0, "", "", 0)
TARGET = parallel.Target("server", client.beside("server", "image", "site", "canary:pass\\word"), "site", "site_new")
GOLDEN = ROOT / "tests/render/golden/prod/stack.json"


@pytest.mark.parametrize(
    ("wanted", "size", "cpus", "count"),
    [
        (0, 0, 64, 1), (0, jobs.SMALL_BYTES - 1, 64, 1), (0, jobs.SMALL_BYTES, 1, 1), (0, jobs.SMALL_BYTES, 2, 1),
        (0, jobs.SMALL_BYTES, 4, 2),
        (0, GIB, 4, 2), (0, GIB, 7, 3), (0, GIB, 8, 4), (0, 200 * GIB, 64, 4),
        (1, 200 * GIB, 64, 1), (2, 0, 1, 2), (32, 0, 2, 32),
    ],
)  # fmt: skip
def test_how_many_processes(wanted: int, size: int, cpus: int, count: int) -> None:
    assert jobs.chosen(wanted, size, cpus) == count


def test_a_dump_off_site_is_loaded_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "engine_cpus", lambda: 8)
    assert jobs.to_load(stack.Backups(), GIB, {}) == 4
    # The server builds the indexes: it may have fewer processors than its machine.
    assert [jobs.to_load(stack.Backups(), GIB, {}, cpus) for cpus in (2.0, 6.5, 64.0)] == [1, 3, 4]
    assert jobs.to_load(stack.Backups(jobs=3), 1, {}) == 3
    assert jobs.to_load(stack.Backups(jobs=3), GIB, {"dump_snapshot": "abc"}) == 1


@pytest.mark.parametrize(("told", "cpus"), [({"NCPU": 6}, 6), ({}, 3), (None, 3)])
def test_processors_are_those_of_the_engine(monkeypatch: pytest.MonkeyPatch, told: Any, cpus: int) -> None:
    monkeypatch.setattr(docker_socket, "get", lambda _path: told)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert jobs.engine_cpus() == cpus


@pytest.mark.parametrize(("value", "good"), [(0, True), (32, True), (33, False), (-1, False), ("2", False)])
def test_the_setting_is_read(tmp_path: Path, value: Any, good: bool) -> None:
    data = json.loads(GOLDEN.read_text())
    data["backup"]["jobs"] = value
    if good:
        assert stack.read(data, tmp_path, tmp_path).backup.jobs == value
        return
    with pytest.raises(EngineError, match=r"backup\.jobs must be a whole number"):
        stack.read(data, tmp_path, tmp_path)


def test_releases_from_before_let_the_kit_decide(tmp_path: Path) -> None:
    data = json.loads(GOLDEN.read_text())
    del data["backup"]["jobs"]
    assert stack.read(data, tmp_path, tmp_path).backup.jobs == 0


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[list[str], str]]:
    """Load a dump of ten bytes by so many processes; gives the words of what did it, and what was said."""
    dump = tmp_path / "database.dump"
    dump.write_bytes(b"0123456789")
    ran: list[list[str]] = []
    said: list[str] = []

    class Said(Report):
        def say(self, text: str) -> None:
            said.append(text)

    @contextmanager
    def opened(_docker: Docker, _purpose: str, _way: client.Way, **_more: Any) -> Iterator[Container]:
        yield MADE

    def moved(words: list[str], **_more: Any) -> tuple[int, str]:
        ran.append(words)
        return 0, ""

    def run(count: int, problem: str, free: int = 50) -> tuple[list[str], str]:
        done = command.Done(int(bool(problem)), f"0|{free}\n", problem)
        monkeypatch.setattr(command, "run", lambda _words, **_more: done)
        docker = Docker(stack.read(json.loads(GOLDEN.read_text()), tmp_path, tmp_path))
        told = {"bytes": 10, "database_bytes": 100}
        fed = parallel.load(docker, Said("restore", False), TARGET, dump, told, count, "restored")
        assert isinstance(fed, Fed)
        return ran[-1], "".join(said)

    monkeypatch.setattr(client, "opened", opened)
    monkeypatch.setattr(streams, "moved", moved)
    monkeypatch.setattr(jobs, "engine_cpus", lambda: 2)
    return run


def test_several_stop_at_the_first_error_and_read_the_file_itself(
    loaded: Callable[..., tuple[list[str], str]],
) -> None:
    words, said = loaded(3, "")
    assert words[:3] == ["docker", "exec", "made"]
    assert {"pg_restore", "--exit-on-error", "--jobs=3", "--dbname=site_new"} <= set(words)
    assert words[-1] == "/backup/database.dump"
    assert said == ""
    # Indexes of as many as may be take no more of the server's memory together.
    found = [next(word for word in loaded(count, "")[0] if word.startswith("PGOPTIONS=")) for count in (2, 4, 32)]
    assert [one.rpartition("=")[2] for one in found] == ["65536kB", "65536kB", "8192kB"]


def test_a_server_without_connections_to_spare_is_loaded_by_one(
    loaded: Callable[..., tuple[list[str], str]],
) -> None:
    assert "--jobs=3" in loaded(3, "", free=7)[0]
    words, said = loaded(3, "", free=6)
    assert words[:4] == ["docker", "exec", "--interactive", "server"]
    assert said == "    loaded by one process instead of 3: the server has 6 connections left"


def test_a_server_that_is_slow_to_say_how_far_it_is_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(_words: list[str], **_more: Any) -> command.Done:
        raise EngineError("timeout", "It was given 5 s.", "wait")

    monkeypatch.setattr(command, "run", late)
    monkeypatch.setattr(streams, "PROGRESS_SECONDS", 0)
    parallel._Growing(TARGET, streams.Progress(Report("restore", False), "restored"), lambda: None).look()


@pytest.mark.parametrize(
    ("code", "said", "error"),
    [
        (1, "FATAL:  sorry, too many clients already", parallel.TakenError),
        (1, "ERROR:  could not obtain lock on relation", parallel.TakenError),
        (1, "ERROR:  permission denied", EngineError),
        # Nothing was written where we look: whatever it says, this is no dump.
        (0, "", EngineError),
    ],
)
def test_what_several_could_not_dump(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, said: str, error: type[EngineError]
) -> None:
    @contextmanager
    def opened(_docker: Docker, _purpose: str, _way: client.Way, **_more: Any) -> Iterator[Container]:
        yield MADE

    monkeypatch.setattr(client, "opened", opened)
    monkeypatch.setattr(command, "run", lambda _words, **_more: command.Done(0, "0|50", ""))
    monkeypatch.setattr(streams, "moved", lambda _words, **_more: (code, said))
    docker = Docker(stack.read(json.loads(GOLDEN.read_text()), tmp_path, tmp_path))
    wanted = Database("db", "volume", "image", "site", "owner")
    moment, client_of = backup_dump.Snapshot("0000-1", "16.10", {}), backup_dump.Client("16.10", "zstd:3")
    (tmp_path / dump_feed.FOLDER).mkdir()
    source = parallel.Source(MADE, wanted, moment, client_of)
    with pytest.raises(EngineError) as raised:
        parallel.dump(docker, Report("backup", False), source, tmp_path, 2, streams.Progress(None, ""), lambda: None)
    assert type(raised.value) is error


@pytest.mark.parametrize(("count", "problem"), [(1, ""), (3, "psql: no pg_hba.conf entry")])
def test_one_loads_from_its_input_and_stops_at_the_first_error(
    loaded: Callable[..., tuple[list[str], str]], count: int, problem: str
) -> None:
    words, said = loaded(count, problem)
    assert words[:4] == ["docker", "exec", "--interactive", "server"]
    assert {"pg_restore", "--exit-on-error"} <= set(words)
    assert not [one for one in words if "jobs" in one]
    assert said == (f"    loaded by one process instead of 3: {problem}" if problem else "")


@pytest.mark.parametrize("count", [1, 3])
def test_no_load_holds_locks_on_all_that_it_makes_or_waits_for_the_disk_each_time(
    loaded: Callable[..., tuple[list[str], str]], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    words, _ = loaded(count, "")
    assert "--single-transaction" not in words
    options = words[words.index("pg_restore") - 1]
    assert options.startswith("PGOPTIONS=-c synchronous_commit=off")
    # A pooler before a server of others refuses them.
    monkeypatch.setattr(client.Way, "is_beside", False)
    assert not [word for word in loaded(count, "")[0] if "PGOPTIONS" in word]


def test_no_secret_is_an_argument(tmp_path: Path) -> None:
    docker = Docker(stack.read(json.loads(GOLDEN.read_text()), tmp_path, tmp_path))
    words = client._words(docker, "loader", TARGET.way, "0:0", 2, ("--mount", "type=bind"))
    assert "canary" not in " ".join(words)
    assert words[words.index("--network") + 1] == "container:server"
    assert words[words.index("--cpus") + 1] == "2"
    script = client._script(TARGET.way)
    # As libpq wants its password file.
    assert "*:*:*:*:canary\\:pass\\\\word\n" in script
    assert script.index("umask 077") < script.index("canary")


def test_what_a_dump_is_comes_from_the_manifest() -> None:
    assert dump_feed.name_of({"files": {"database.dump": {}, "roles.sql": {}}}) == dump_feed.FILE
    assert dump_feed.name_of({"files": {"database/toc.dat": {}, "roles.sql": {}}}) == dump_feed.FOLDER
    # Those of the first schema named no file.
    assert dump_feed.name_of({}) == dump_feed.FILE


@pytest.mark.parametrize(
    ("wanted", "login"),
    [
        (Database("db", "volume", "image", "site", "owner"), ["--username=owner", "--role=kit_backup"]),
        (External("db", "", "image", "site", "owner", role="kit_backup"), ["--username=owner", "--role=kit_backup"]),
        (External("db", "", "image", "site", "owner"), ["--username=owner"]),
    ],
)
def test_several_dump_one_moment_as_the_role_that_reads(wanted: Database, login: list[str]) -> None:
    moment = backup_dump.Snapshot("0000-1", "16.10", {})
    words = backup_dump.words_for_folder(wanted, moment, backup_dump.Client("16.10", "zstd:3"), "/backup/database", 3)
    assert words[:4] == ["pg_dump", "--format=directory", "--jobs=3", "--file=/backup/database"]
    assert {"--compress=zstd:3", "--snapshot=0000-1", "--no-password", "--dbname=site"} <= set(words)
    assert [one for one in words if one.startswith(("--username", "--role"))] == login


def test_files_are_hashed_while_they_grow(tmp_path: Path) -> None:
    folder = tmp_path / "database"
    written = parallel._Written(folder)
    assert written.follow() == 0
    folder.mkdir()
    with (folder / "1.dat").open("wb", buffering=0) as file:
        file.write(b"one")
        assert written.follow() == 3
        file.write(b" and two")
    (folder / "toc.dat").write_bytes(b"toc")
    assert streams.size_of(folder) == 14
    assert written.files() == {
        f"database/{name}": {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in (("1.dat", b"one and two"), ("toc.dat", b"toc"))
    }
