"""Backups that several processes load at once, on the real engine: `backup_jobs` says outright how many."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kit_engine import backup, database_password, throw_away
from support import host_releases
from support.backups import backed_up, databases, fill, folder_of, limits, manifest_of, names, sql, throw_aways
from support.engine_stack import docker
from support.host_releases import HostReleases

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


def test_what_two_loaded_is_what_was_there(host: HostReleases, said: Callable[[], list[str]]) -> None:
    change(host, 2000)
    contents = sql(host, CONTENTS)
    told = host.engine("backup", "--json")
    assert told.code == 0, told.err
    given = str(told.json["backup"]["id"])
    assert told.json["backup"]["level"] == "restore"
    assert manifest_of(host, given)["rows"]["public.kit_parts"] == 4000
    change(host, 7)
    # By the clock and by hand; the safety backup is restored for a test as well.
    assert host.engine("verify-backup", "--json", given, "--level", "restore").code == 0
    told = restore(host, given)
    assert told.code == 0, told.err
    assert host.ask("/rows") == "2000"
    assert sql(host, CONTENTS) == contents
    found = loads(said())
    assert len(found) == 4
    assert all("--jobs=2" in one and "--single-transaction" not in one for one in found)
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
    given, contents = backed_up(host, "--level", "checksum"), sql(host, CONTENTS)
    change(host, 3)
    with rule(host, method), limits(host, level="checksum"):
        told = restore(host, given)
    assert told.code == 0, told.err
    assert sql(host, CONTENTS) == contents
    (load,) = loads(said())
    assert ("--jobs=2" in load) == parallel
    assert ("loaded by one process instead of 2: " in told.err) != parallel
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
    given = backed_up(host, "--level", "checksum")
    change(host, 3)
    before = databases(host)
    words = {"restore": [given, "--confirm", "prod"], "verify-backup": [given, "--level", "restore"]}[verb]
    with limits(host, level="checksum"):
        running = host.started(verb, "--json", *words)
        loader = _loader(host, running.poll)
        if victim == "loader":
            docker("kill", loader)
        elif victim == "worker":
            os.kill(_workers(loader, running.poll)[-1], signal.SIGKILL)
        else:
            host_releases.kill_group(running, signal.Signals[f"SIG{victim}"])
        out, err = running.communicate(timeout=120)
    assert running.returncode != 0, err
    if victim in ("worker", "loader"):
        assert json.loads(out.splitlines()[-1])["code"] == "backup"
    # Of a client whose standard input ends nothing stays, whoever ended the engine.
    end = time.monotonic() + 30
    while any("loader" in one for one in throw_aways(host)):
        assert time.monotonic() < end
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


def _loader(host: HostReleases, ended: Callable[[], int | None]) -> str:
    """Wait until a load by two is under way; gives its container's name."""
    while True:
        assert ended() is None
        for name in throw_aways(host, "--filter", "status=running"):
            if "-loader-" in name and "--jobs=2" in docker("top", name, "-eo", "pid,args"):
                return name


def _workers(loader: str, ended: Callable[[], int | None]) -> list[int]:
    """Wait for both workers, children of the pg_restore that was started; gives their process ids."""
    while True:
        assert ended() is None
        rows = docker("top", loader, "-eo", "pid,args").splitlines()
        found = [int(row.split()[0]) for row in rows if " pg_restore --exit-on-error" in row or "pg_restore: " in row]
        if len(found) == 3:
            return sorted(found)
