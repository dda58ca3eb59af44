"""Backups of a PostgreSQL that somebody else runs: a second server with its own network and its own users."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import external
from support.backups import (
    backed_up,
    folder_of,
    manifest_of,
    media,
    media_file,
    media_files,
    names,
    throw_aways,
    until,
)
from support.engine import base_image
from support.engine_stack import docker
from support.external import PASSWORD, Server, demand_refused, described
from support.host_releases import HostReleases

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The server; its user for the app may make databases, and no roles."""
    with external.server() as made:
        yield made


@pytest.fixture(scope="module")
def host(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostReleases]:
    """A deploy root with one release that uses the server."""
    with external.released(server, tmp_path_factory.mktemp("external")) as made:
        yield made


class Watch:
    """Sees all that others could see of the host while something runs: process lists, and what Docker tells."""

    def __init__(self, host: HostReleases) -> None:
        self.host, self.lines, self.inspected = host, set[str](), dict[str, str]()
        self._ended = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look until the block is left."""
        looking = threading.Thread(target=self._look)
        looking.start()
        try:
            yield
        finally:
            self._ended.set()
            looking.join()

    def _look(self) -> None:
        while not self._ended.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.lines.add(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
                except OSError:
                    continue
            for name in throw_aways(self.host):
                told = subprocess.run(["docker", "inspect", name], capture_output=True, text=True, check=False).stdout
                self.inspected.setdefault(name, told)
            time.sleep(0.02)


def test_a_release_is_preceded_by_a_backup_that_was_restored(host: HostReleases, server: Server) -> None:
    server.fill(1000)
    version = host.version("two", settings=external.SETTINGS, further_variables=external.VARIABLES)
    watch = Watch(host)
    with watch.running():
        told = host.deploy(version, backup=True)
    assert told.code == 0, told.err
    record = host.record(host.current)["backup"]
    assert record["level"] == "restore"
    manifest = manifest_of(host, record["id"])
    assert manifest["rows"]["public.kit_rows"] == 1000
    assert (manifest["database"], manifest["kind"]) == ("site", "release")
    assert manifest["server"].partition(" ")[0] == manifest["client"]
    # Its user may not make the role that reads for backups, which is said once.
    said = (host.root / f"records/{host.current}.log").read_text()
    assert said.count("read by user site itself, which may not make role kit_backup") == 1
    assert server.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'kit_backup'") == "0"
    assert throw_aways(host) == []

    # Seen were the client, its programs, and the server of the test; of them nobody learns how to log in.
    assert {name.split("-")[-2] for name in watch.inspected} >= {"client"}
    assert [line for line in watch.lines if "pg_dump " in line]
    seen = {**watch.inspected, "processes": "\n".join(watch.lines), "out": told.out, "log": said}
    assert [name for name, text in seen.items() if PASSWORD in text] == []
    # One that went as it was looked at has nothing to show.
    found = [json.loads(text) for name, text in watch.inspected.items() if "-client-" in name]
    (client,) = next(one for one in found if one)
    shown = json.dumps([client["Config"], client["Args"], client["HostConfig"], client["Mounts"]])
    assert server.address not in shown
    assert str(server.port) not in shown
    for path in folder_of(host, record["id"]).rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes(), path


def test_rows_come_back_and_those_of_before_stay(host: HostReleases, server: Server) -> None:
    server.fill(1000)
    first, checksum = backed_up(host), server.checksum()
    server.fill(7)
    told = host.engine("restore", "--json", first, "--confirm", "prod")
    assert told.code == 0, told.err
    assert PASSWORD not in told.out + told.err
    assert host.ask("/rows") == "1000"
    assert server.checksum() == checksum
    kept = told.json["kept_as"]
    assert server.sql("SELECT count(*) FROM kit_rows", database=kept) == "7"
    assert manifest_of(host, told.json["safety"])["rows"]["public.kit_rows"] == 7
    assert server.databases().split() == ["postgres", "site", kept, "template0", "template1"]
    server.drop_kept()
    assert throw_aways(host) == []


def test_a_database_that_was_dropped_comes_back(host: HostReleases, server: Server) -> None:
    server.fill(60)
    given, checksum = backed_up(host, "--level", "checksum"), server.checksum()
    server.sql("DROP DATABASE site WITH (FORCE)", database="postgres")
    told = host.engine("restore", given)
    assert "This replaces database site (not there) of " in told.err
    told = host.engine("restore", "--json", given, "--confirm", "prod")
    assert told.code == 0, told.err
    assert host.ask("/rows") == "60"
    assert server.checksum() == checksum
    assert told.json["safety"] == ""
    server.drop_kept()


def test_media_files_come_back_with_the_rows(host: HostReleases, server: Server) -> None:
    server.fill(1000)
    media_file(host, "pictures/kept.txt", "kept")
    media_file(host, "pictures/changed.txt", "as it was")
    owner = media(host, "stat", "-c", "%u:%g %a", "pictures", "pictures/kept.txt")
    given = backed_up(host)
    manifest = manifest_of(host, given)
    assert (manifest["level"], manifest["media"]["files"]) == ("restore", 2)
    assert host.engine("verify-backup", "--json", given, "--level", "restore").code == 0
    server.fill(7)
    media_file(host, "pictures/changed.txt", "changed")
    media_file(host, "later.txt", "later")
    media(host, "rm", "pictures/kept.txt")
    told = host.engine("restore", "--json", given, "--confirm", "prod")
    assert told.code == 0, told.err
    assert told.json["media"]
    assert host.ask("/rows") == "1000"
    assert media_files(host) == {"./pictures/kept.txt", "./pictures/changed.txt"}
    assert media(host, "cat", "pictures/changed.txt") == "as it was"
    assert media(host, "stat", "-c", "%u:%g %a", "pictures", "pictures/kept.txt") == owner
    # What was there lies in the backup that was made of it.
    assert host.engine("restore", "--json", told.json["safety"], "--confirm", "prod").code == 0
    assert (host.ask("/rows"), media(host, "cat", "later.txt")) == ("7", "later")
    server.drop_kept()
    assert throw_aways(host) == []


@pytest.mark.parametrize("level", ["checksum", "read", "restore"])
def test_each_level_is_reached_and_finds_damage(host: HostReleases, level: str) -> None:
    given = backed_up(host, "--level", level)
    assert manifest_of(host, given)["level"] == level
    told = host.engine("verify-backup", "--json", given, "--level", level)
    assert told.code == 0, told.err
    dump = folder_of(host, given) / "database.dump"
    dump.write_bytes(dump.read_bytes()[:-100])
    told = host.engine("verify-backup", "--json", given, "--level", level)
    assert told.code != 0
    assert "is not what was written" in told.err


LACKING = {
    "no databases": ("ALTER ROLE site NOCREATEDB", "ALTER ROLE site CREATEDB", "lacks CREATEDB"),
    "not the owner": (
        "ALTER DATABASE site OWNER TO postgres; GRANT ALL ON DATABASE site TO site",
        "ALTER DATABASE site OWNER TO site", "does not own site",
    ),
    "no other database": (
        "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC", "GRANT CONNECT ON DATABASE postgres TO PUBLIC",
        "cannot use database postgres",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LACKING)
def test_a_user_that_may_not_restore_is_told_what_it_lacks(host: HostReleases, server: Server, case: str) -> None:
    taken, given, said = LACKING[case]
    backup = backed_up(host, "--level", "checksum")
    before, databases, running = names(host), server.databases(), host.containers()
    server.sql(*taken.split("; "), database="postgres")
    try:
        told = host.engine("restore", "--json", backup, "--confirm", "prod")
    finally:
        server.sql(given, database="postgres")
    demand_refused(host, told, before, said, "Nothing was changed", given.partition(" ")[0])
    assert (server.databases(), host.containers()) == (databases, running)


def test_a_user_that_may_make_the_role_reads_every_row_by_it(host: HostReleases, server: Server) -> None:
    # What site reads itself is not that table: it may only hand the right on.
    server.sql("ALTER ROLE site CREATEROLE BYPASSRLS",
               "GRANT pg_read_all_data TO site WITH ADMIN TRUE, INHERIT FALSE, SET FALSE",
               "CREATE TABLE hidden (id int)", "INSERT INTO hidden SELECT generate_series(1, 7)",
               "ALTER TABLE hidden ENABLE ROW LEVEL SECURITY",
               "ALTER TABLE hidden FORCE ROW LEVEL SECURITY")  # fmt: skip
    try:
        for _ in range(2):
            told = host.engine("backup", "--json")
            assert told.code == 0, told.err
            assert "read by user" not in told.err
        assert manifest_of(host, told.json["backup"]["id"])["rows"]["public.hidden"] == 7
        role = "rolcanlogin, rolbypassrls, rolsuper, rolcreatedb, rolcreaterole"
        assert server.sql(f"SELECT {role} FROM pg_roles WHERE rolname = 'kit_backup'") == "f|t|f|f|f"  # noqa: S608
        for statement in ("INSERT INTO hidden VALUES (8)", "CREATE TABLE mine (id int)"):
            with pytest.raises(AssertionError, match="permission denied"):
                server.sql("SET ROLE kit_backup", statement)
    finally:
        server.sql("DROP TABLE hidden", "DROP OWNED BY kit_backup", "DROP ROLE kit_backup",
                   "REVOKE pg_read_all_data FROM site", "ALTER ROLE site NOCREATEROLE NOBYPASSRLS")  # fmt: skip


def test_rows_that_the_user_may_not_see_fail_the_backup(host: HostReleases, server: Server) -> None:
    backed_up(host)
    before = names(host)
    server.sql("CREATE TABLE foreign_rows (id int)")
    try:
        told = host.engine("backup", "--json")
    finally:
        server.sql("DROP TABLE foreign_rows")
    demand_refused(host, told, before, "permission denied", "foreign_rows", "Nothing was changed")


def test_another_major_version_is_refused(host: HostReleases) -> None:
    before = names(host)
    tag = f"kit-test-older-client:{host.name}"
    text = f"FROM {base_image('postgres')}\nRUN p=$(command -v pg_dump) && rm $p"
    text += " && printf '#!/bin/sh\\necho pg_dump 15.18\\n' >$p && chmod 755 $p\n"
    subprocess.run(["docker", "build", "--quiet", "--tag", tag, "-"], input=text.encode(), capture_output=True,
                   check=True)  # fmt: skip
    try:
        with described(host, image=tag):
            told = host.engine("backup", "--json")
    finally:
        docker("image", "rm", "--force", tag)
    demand_refused(host, told, before, "is PostgreSQL 16.", "15.18", "name an image of PostgreSQL 16")


REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "nobody listens": ({"port": 1}, ("does not let user site", "refused")),
    "another database": ({"name": "another"}, ("does not let user site into database another", "does not exist")),
    # This build of PostgreSQL knows no TLS, and says so only where it is asked for it.
    "no TLS": ({"sslmode": "require"}, ("does not let user site", "SSL")),
    "image not there": ({"image": "kit-test/none:1"}, ("is not on this host",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_server_that_cannot_be_used_stops_the_release(host: HostReleases, case: str) -> None:
    changed, said = REFUSED[case]
    before, running = names(host), host.containers()
    with described(host, **changed):
        begun = time.monotonic()
        told = host.engine("backup", "--json")
        assert time.monotonic() - begun < 40
    demand_refused(host, told, before, *said)
    assert host.containers() == running


def test_a_wrong_password_is_not_shown(host: HostReleases, server: Server) -> None:
    before = names(host)
    server.sql("ALTER ROLE site PASSWORD 'another'")
    try:
        told = host.engine("backup", "--json")
    finally:
        server.sql(f"ALTER ROLE site PASSWORD '{PASSWORD}'")
    demand_refused(host, told, before, "password authentication failed", "Nothing was changed")


def test_of_an_engine_that_was_killed_no_client_stays(host: HostReleases, server: Server) -> None:
    before = names(host)
    pieces = (
        "SELECT string_agg(md5((i * 1000 + j)::text), '') FROM generate_series(1, 20000) i, generate_series(1, 30) j"
    )
    server.sql(
        "CREATE TABLE large (text text)", "ALTER TABLE large OWNER TO site", f"INSERT INTO large {pieces} GROUP BY i"
    )  # fmt: skip
    try:
        with host.started("backup", "--json", "--level", "checksum") as running:
            until(
                lambda: [one for one in names(host) - before if (folder_of(host, one) / "database.dump").exists()],
                running,
            )
            os.kill(running.pid, signal.SIGKILL)
            running.wait()
        until(lambda: not throw_aways(host))
        given = backed_up(host)
        assert names(host) == {*before, given}
    finally:
        server.sql("DROP TABLE large")
