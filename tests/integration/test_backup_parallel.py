"""Backups that several processes dump and load at once, on the real engine: `backup_jobs` says outright how many."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kit_engine import backup, database_password, dump_feed, recovery, throw_away, verification
from kit_engine.backup import FOLDER
from kit_engine.errors import EngineError
from kit_engine.verification import CONFIGURATION, DUMP, ROLES
from support import external, host_releases, offsite
from support.backups import backed_up, databases, fill, flip, folder_of, limits, manifest_of, names, sql, throw_aways
from support.engine_stack import docker
from support.host_releases import SECRETS, HostReleases

pytestmark = [pytest.mark.engine, pytest.mark.slow]

RULES = "/var/lib/postgresql/data/pg_hba.conf"
# A foreign key, a large object, an index and a table without a row, beside the rows that are counted.
TABLES = """
DROP TABLE IF EXISTS kit_parts; DROP TABLE IF EXISTS kit_wholes; DROP TABLE IF EXISTS kit_none;
CREATE TABLE kit_wholes (id int PRIMARY KEY, text text);
CREATE TABLE kit_parts (id int PRIMARY KEY, whole int REFERENCES kit_wholes, text text);
CREATE TABLE kit_none (id int);
INSERT INTO kit_wholes SELECT i, md5(i::text) FROM generate_series(1, {rows}) i;
INSERT INTO kit_parts SELECT i, 1 + i % {rows}, md5((i * 3)::text) FROM generate_series(1, 2 * {rows}) i;
CREATE INDEX ON kit_parts (text)
"""
CONTENTS = """
SELECT (SELECT md5(string_agg(id || text, ',' ORDER BY id)) FROM kit_rows)
    || (SELECT md5(string_agg(id || text, ',' ORDER BY id)) FROM kit_wholes)
    || (SELECT md5(string_agg(id || text || whole, ',' ORDER BY id)) FROM kit_parts)
    || (SELECT count(*) FROM kit_none) || (SELECT md5(string_agg(lo_get(oid), ''::bytea ORDER BY oid))
                                             FROM pg_largeobject_metadata)
    || (SELECT string_agg(conname, ',' ORDER BY conname) FROM pg_constraint WHERE conname LIKE 'kit_%')
    || (SELECT string_agg(indexname, ',' ORDER BY indexname) FROM pg_indexes WHERE tablename LIKE 'kit_%')
"""


@pytest.fixture(autouse=True)
def two(host: HostReleases) -> Iterator[None]:
    """Two processes, however small the database is."""
    with limits(host, jobs=2):
        yield


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[str]]:
    """What Docker's client was told by the engine, a line a call."""
    log, folder = tmp_path / "said", tmp_path / "bin"
    folder.mkdir()
    real = next(path for path in os.environ["PATH"].split(os.pathsep) if Path(path, "docker").is_file())
    (folder / "docker").write_text(
        f'#!/bin/sh\necho "$*" | tr "\\n" " " >>{log}; echo >>{log}\nexec {real}/docker "$@"\n'
    )
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return lambda: log.read_text().splitlines()


def restore(host: HostReleases, given: str) -> host_releases.Told:
    """Bring a backup back."""
    return host.engine("restore", "--json", given, "--confirm", "prod")


def loads(said: list[str]) -> list[str]:
    """Those that load."""
    return [one for one in said if " pg_restore --exit-on-error " in one]


def dumps(said: list[str]) -> list[str]:
    """Those that dump."""
    return [one for one in said if " pg_dump --format=" in one and "--schema-only" not in one]


def by_one(host: HostReleases, *words: str) -> str:
    """Have one process dump, as every backup was made before; gives the backup's id."""
    with limits(host, jobs=1):
        return backed_up(host, *words)


def dump_files(host: HostReleases, given: str) -> list[Path]:
    """The files of a dump that is a folder, the largest last."""
    return sorted((folder_of(host, given) / dump_feed.FOLDER).iterdir(), key=lambda one: one.stat().st_size)


def change(host: HostReleases, rows: int) -> None:
    """Have another content of every table."""
    fill(host, rows)
    sql(host, TABLES.format(rows=rows))
    sql(host, f"SELECT lo_unlink(oid) FROM pg_largeobject_metadata; SELECT lo_from_bytea(0, '{rows}')")  # noqa: S608 - a number


@contextmanager
def rule(host: HostReleases, method: str) -> Iterator[None]:
    """Have the server ask so over its own loopback."""
    container = host.containers()["db"][0]
    script = f"cp -p {RULES} /tmp/rules; sed -i '1i host all all 127.0.0.1/32 {method}' {RULES}"
    docker("exec", container, "sh", "-c", script)
    sql(host, "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        docker("exec", container, "sh", "-c", f"cat /tmp/rules > {RULES}; rm /tmp/rules")
        sql(host, "SELECT pg_reload_conf()")


@pytest.mark.parametrize("dumped", ["by one", "by two"])
def test_what_two_loaded_is_what_was_there(host: HostReleases, said: Callable[[], list[str]], dumped: str) -> None:
    change(host, 2000)
    contents = sql(host, CONTENTS)
    given = by_one(host, "--level", "checksum") if dumped == "by one" else backed_up(host)
    manifest = manifest_of(host, given)
    assert manifest["rows"]["public.kit_parts"] == 4000
    assert (DUMP in manifest["files"]) == (dumped == "by one")
    change(host, 7)
    # By the clock and by hand.
    assert host.engine("verify-backup", "--json", given, "--level", "restore").code == 0
    told = restore(host, given)
    assert told.code == 0, told.err
    assert host.ask("/rows") == "2000"
    assert sql(host, CONTENTS) == contents
    found = loads(said())
    assert len(found) == (2 if dumped == "by one" else 3)
    assert all("--jobs=2" in one and "--single-transaction" not in one for one in found)
    assert [" --jobs=2 " in one for one in dumps(said())] == [dumped == "by two", True]
    # The password came by standard input.
    password = (host.root / database_password.FILE).read_text().strip()
    assert password
    assert not [one for one in said() if password in one]
    assert throw_aways(host) == []
    assert sql(host, "SELECT count(*) FROM pg_database WHERE datname LIKE '%\\_new\\_%'") == "0"


@pytest.mark.parametrize(("method", "parallel"), [("scram-sha-256", True), ("reject", False)])
def test_a_server_that_asks_for_the_password_gets_it_and_one_that_refuses_is_loaded_by_one(
    host: HostReleases, said: Callable[[], list[str]], method: str, parallel: bool
) -> None:
    change(host, 300)
    given, contents = by_one(host, "--level", "checksum"), sql(host, CONTENTS)
    change(host, 3)
    with rule(host, method), limits(host, level="checksum"):
        told = restore(host, given)
    assert told.code == 0, told.err
    assert sql(host, CONTENTS) == contents
    (load,), dump = loads(said()), dumps(said())[-1]
    assert ("--jobs=2" in load) == ("--jobs=2" in dump) == parallel
    for what in ("dumped", "loaded"):
        assert (f"{what} by one process instead of 2: " in told.err) != parallel
    assert manifest_of(host, told.json["safety"])["rows"]["public.kit_parts"] == 6
    assert throw_aways(host) == []


def test_a_backup_that_only_its_owner_may_read_is_mounted_for_reading_alone(host: HostReleases) -> None:
    change(host, 150_000)
    given = backed_up(host, "--level", "checksum")
    running = host.started("verify-backup", given, "--level", "restore")
    loader = _loader(host, running.poll)
    (found,) = json.loads(docker("inspect", loader))
    (mount,) = [one for one in found["Mounts"] if one["Type"] == "bind"]
    assert (mount["Source"], mount["RW"]) == (str(folder_of(host, given)), False)
    assert found["HostConfig"]["CapDrop"] == ["ALL"]
    assert found["HostConfig"]["ReadonlyRootfs"]
    # By which the next run removes what one that was killed has left.
    assert found["Config"]["Labels"][throw_away.LABEL] == host.project
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, (out, err)


@pytest.mark.parametrize(
    ("verb", "victim"),
    [
        ("restore", "worker"), ("restore", "TERM"), ("restore", "KILL"),
        ("verify-backup", "loader"), ("verify-backup", "TERM"), ("verify-backup", "KILL"),
    ],
)  # fmt: skip
def test_a_load_that_is_ended_midway_leaves_no_container_and_no_lost_backup(
    host: HostReleases, verb: str, victim: str
) -> None:
    change(host, 200_000)
    given = (by_one if victim == "KILL" else backed_up)(host, "--level", "checksum")
    change(host, 3)
    before = databases(host)
    words = {"restore": [given, "--confirm", "prod"], "verify-backup": [given, "--level", "restore"]}[verb]
    with limits(host, level="checksum"):
        running = host.started(verb, "--json", *words)
        loader = _loader(host, running.poll)
        if victim == "loader":
            docker("kill", loader)
        elif victim == "worker":
            os.kill(_workers(loader, "pg_restore", running.poll)[-1], signal.SIGKILL)
        else:
            host_releases.kill_group(running, signal.Signals[f"SIG{victim}"])
        out, err = running.communicate(timeout=120)
    assert running.returncode != 0, err
    if victim in ("worker", "loader"):
        assert json.loads(out.splitlines()[-1])["code"] == "backup"
    demand_none(host, "loader")
    if victim != "KILL":
        assert throw_aways(host) == []
        assert databases(host) == before
    assert given in names(host)
    # The next command makes the host whole, and the backup is as good as before.
    assert host.deploy(None).code == 0
    assert host.ask("/rows") == "3"
    assert host.engine("verify-backup", "--json", given, "--level", "restore").code == 0
    assert throw_aways(host) == []
    told = restore(host, given)
    assert told.code == 0, told.err
    assert host.ask("/rows") == "200000"
    assert sql(host, "SELECT count(*) FROM pg_database WHERE datname LIKE '%\\_new\\_%'") == "0"
    assert not [one for one in names(host) if one.startswith(backup.UNFINISHED)]


def test_a_dump_by_two_is_a_folder_whose_every_file_the_manifest_has(host: HostReleases) -> None:
    change(host, 2000)
    given = backed_up(host)
    manifest, folder = manifest_of(host, given), folder_of(host, given)
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name == dump_feed.FOLDER]
    assert len(files) > 4
    inside = {path.relative_to(folder).as_posix() for path in files}
    assert set(manifest["files"]) - {"media.jsonl"} == inside | {ROLES, CONFIGURATION}
    for name in inside:
        told = manifest["files"][name]
        assert (told["bytes"], told["sha256"]) == ((folder / name).stat().st_size, verification.sha256(folder / name))
    assert manifest["bytes"] == sum(path.stat().st_size for path in files)
    for path in [folder, *folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    # It is listed, verified by every level, and goes like any other.
    assert next(one for one in backup.listed(host.root) if one["id"] == given)["bytes"] == manifest["bytes"]
    for level in verification.LEVELS:
        told = host.engine("verify-backup", "--json", given, "--level", level)
        assert told.code == 0, told.err
    later = backed_up(host, "--level", "checksum")
    with limits(host, keep_releases=1):
        assert host.engine("prune-backups", "--json").code == 0
    assert given not in names(host)
    assert later in names(host)
    assert throw_aways(host) == []


@pytest.mark.parametrize("fault", ["flipped bit", "cut off", "missing", "contents flipped"])
def test_damage_of_one_file_of_a_folder_is_found(host: HostReleases, fault: str) -> None:
    change(host, 2000)
    given = backed_up(host, "--level", "checksum")
    before, path = databases(host), dump_files(host, given)[-1]
    if fault == "missing":
        path.unlink()
    elif fault == "cut off":
        path.write_bytes(path.read_bytes()[:-1])
    elif fault == "flipped bit":
        flip(path)
    else:
        path = path.parent / "toc.dat"
        flip(path)
    for words in (["verify-backup", "--json", given, "--level", "checksum"], ["restore", given, "--confirm", "prod"]):
        told = host.engine(*words)
        assert told.code == 1, words
        assert path.name in told.out + told.err
    assert host.ask("/rows") == "2000"
    assert databases(host) == before
    # It is known from then on, and none that is bad is the newest good one.
    assert (backup.newest(host.root) or {}).get("id") != given


def test_a_read_of_a_folder_finds_a_file_that_is_cut_off(host: HostReleases) -> None:
    """The level itself, for a dump that was bad before its checksum was made."""
    change(host, 2000)
    given = backed_up(host, "--level", "checksum")
    wanted, path = recovery.docker_of(host.root, host.current), dump_files(host, given)[-1]
    server, told = wanted.running("db"), manifest_of(host, given)
    verification.read(wanted, None, server, folder_of(host, given), told)
    content = path.read_bytes()
    # Of the last of these only the checksum of what was compressed is lost besides a few rows.
    for size in (0, len(content) // 2, len(content) - 32):
        path.write_bytes(content[:size])
        with pytest.raises(EngineError, match="cannot be read back"):
            verification.read(wanted, None, server, folder_of(host, given), told)
    path.write_bytes(content)
    lacking = {**told, "rows": {**told["rows"], "public.none": 0}}
    with pytest.raises(EngineError, match="holds the rows of"):
        verification.read(wanted, None, server, folder_of(host, given), lacking)


@pytest.mark.parametrize("victim", ["worker", "TERM", "KILL"])
def test_a_dump_that_is_ended_midway_leaves_no_container_and_loses_no_backup(host: HostReleases, victim: str) -> None:
    change(host, 300_000)
    earlier = backed_up(host, "--level", "checksum")
    before = {name for name in names(host) if not name.startswith(backup.UNFINISHED)}
    running = host.started("backup", "--json", "--level", "checksum")
    workers = _workers(_dumper(host, running.poll), "pg_dump", running.poll)
    if victim == "worker":
        os.kill(workers[-1], signal.SIGKILL)
    else:
        host_releases.kill_group(running, signal.Signals[f"SIG{victim}"])
    out, err = running.communicate(timeout=60)
    assert running.returncode != 0, err
    if victim == "worker":
        assert json.loads(out.splitlines()[-1])["code"] == "backup"
    demand_none(host, "dumper")
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'kit backup'"
    end = time.monotonic() + 10
    while sql(host, sessions) != "0":
        assert time.monotonic() < end
    if victim != "KILL":
        assert names(host) == before
        assert throw_aways(host) == []
    given = backed_up(host, "--level", "checksum")
    assert names(host) == before | {given}
    assert host.engine("verify-backup", "--json", earlier, "--level", "checksum").code == 0


def test_who_waits_for_a_table_meanwhile_has_one_process_dump_anew(
    host: HostReleases, said: Callable[[], list[str]]
) -> None:
    change(host, 400_000)
    running = host.started("backup", "--json", "--level", "checksum")
    _workers(_dumper(host, running.poll), "pg_dump", running.poll)
    sql(host, "TRUNCATE kit_none; INSERT INTO kit_none VALUES (1)")
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    assert b"dumped anew, by one process: " in err
    assert [" --jobs=2 " in one for one in dumps(said())] == [True, False]
    given = str(json.loads(out.splitlines()[-1])["backup"]["id"])
    assert manifest_of(host, given)["rows"]["public.kit_none"] == 1
    assert {path.name for path in folder_of(host, given).iterdir()} >= {DUMP, ROLES}
    assert not (folder_of(host, given) / dump_feed.FOLDER).exists()


def test_a_folder_comes_back_from_its_copy_off_site_alone(
    host: HostReleases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = offsite.by_sftp(tmp_path)
    monkeypatch.setenv("PATH", f"{place.programs}{os.pathsep}{os.environ['PATH']}")
    change(host, 700)
    contents = sql(host, CONTENTS)
    with offsite.configured(host, place):
        given = backed_up(host, "--level", "checksum")
        before = {path.name: path.read_bytes() for path in dump_files(host, given)}
        shutil.rmtree(host.root / FOLDER)
        change(host, 3)
        told = restore(host, given)
        assert told.code == 0, told.err
    assert sql(host, CONTENTS) == contents
    assert {path.name: path.read_bytes() for path in dump_files(host, given)} == before


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[external.Server, HostReleases]]:
    """A server of somebody else's, and a deploy root with one release that uses it."""
    with external.server() as server:
        made = host_releases.make(tmp_path)
        made.variables = {**server.variables, "backup_jobs": 2}
        try:
            told = made.deploy(made.version("one", settings=external.SETTINGS, further_variables=external.VARIABLES))
            assert told.code == 0, told.err
            yield server, made
        finally:
            made.remove()


def test_two_dump_and_load_what_lies_on_a_server_of_somebody_elses(
    elsewhere: tuple[external.Server, HostReleases], said: Callable[[], list[str]]
) -> None:
    server, host = elsewhere
    server.fill(2000)
    checksum = server.checksum()
    given = backed_up(host)
    assert (folder_of(host, given) / dump_feed.FOLDER / "toc.dat").is_file()
    server.fill(3)
    told = restore(host, given)
    assert told.code == 0, told.err
    assert host.ask("/rows") == "2000"
    assert server.checksum() == checksum
    assert [" --jobs=2 " in one for one in [*dumps(said()), *loads(said())]] == [True] * 4
    assert not [one for one in said() if SECRETS["PGPASSWORD"] in one]
    assert throw_aways(host) == []


def demand_none(host: HostReleases, purpose: str) -> None:
    """Of a client whose standard input ends nothing stays, whoever ended the engine."""
    end = time.monotonic() + 30
    while any(f"-{purpose}-" in one for one in throw_aways(host)):
        assert time.monotonic() < end


def _dumper(host: HostReleases, ended: Callable[[], int | None]) -> str:
    """Wait until a dump by two is under way; gives its container's name."""
    return _under_way(host, "dumper", ended)


def _loader(host: HostReleases, ended: Callable[[], int | None]) -> str:
    """Wait until a load by two is under way; gives its container's name."""
    return _under_way(host, "loader", ended)


def _under_way(host: HostReleases, purpose: str, ended: Callable[[], int | None]) -> str:
    while True:
        assert ended() is None
        for name in throw_aways(host, "--filter", "status=running"):
            if f"-{purpose}-" in name and "--jobs=2" in docker("top", name, "-eo", "pid,args"):
                return name


def _workers(container: str, program: str, ended: Callable[[], int | None]) -> list[int]:
    """Wait for both workers, children of the program that was started; gives the process ids of all three."""
    while True:
        assert ended() is None
        rows = docker("top", container, "-eo", "pid,args").splitlines()
        found = [int(row.split()[0]) for row in rows if row.split(maxsplit=1)[1].startswith(program)]
        if len(found) == 3:
            return sorted(found)
