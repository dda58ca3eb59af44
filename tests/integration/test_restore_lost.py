"""A restore where the database in use cannot be backed up any more, or is gone."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress

import pytest
from kit_engine import media_writer
from support import host_releases
from support.backups import backed_up, databases, fill, media, media_file, sql, unfinished_media, until, until_step
from support.engine_stack import docker
from support.host_releases import HostReleases

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def restore(host: HostReleases, given: str, *words: str) -> host_releases.Told:
    """Bring a backup back."""
    return host.engine("restore", "--json", given, "--confirm", "prod", *words)


def elsewhere(host: HostReleases, statement: str) -> str:
    """Ask the server by a session of another database."""
    words = ["psql", "--no-align", "--tuples-only", f"--username={host.name}", "--dbname=postgres"]
    return docker("exec", host.containers()["db"][0], *words, f"--command={statement}").strip()


def answers(host: HostReleases) -> bool:
    """Whether the server does."""
    with suppress(AssertionError):
        return elsewhere(host, "SELECT 1") == "1"
    return False


def spoil_a_page(host: HostReleases) -> None:
    """Have the first page of the rows be none on the disk, as after a disk that lied; no row of it can be read."""
    path, server = sql(host, "CHECKPOINT; SELECT pg_relation_filepath('kit_rows')").split()[-1], host.containers()["db"]
    script = "tr '\\0' '\\377' </dev/zero | dd of=\"$PGDATA/$1\" bs=8192 count=1 conv=notrunc 2>/dev/null"
    docker("exec", "--user", "0", server[0], "sh", "-c", script, "sh", path)
    # Its own memory has the page as it was.
    docker("restart", server[0])
    until(lambda: answers(host))


def repeat_a_key(host: HostReleases) -> None:
    """Have two rows of one primary key, as after a library of other collation rules: it dumps, and does not restore."""
    index = "UPDATE pg_index SET indisready = {} WHERE indexrelid = 'kit_rows_pkey'::regclass"
    sql(host, index.format("false"))
    sql(host, "INSERT INTO kit_rows SELECT * FROM kit_rows LIMIT 1")
    sql(host, index.format("true"))


@pytest.mark.parametrize(("damage", "backs_up"), [(spoil_a_page, False), (repeat_a_key, True)])
def test_a_damaged_database_is_replaced_by_a_good_backup(
    host: HostReleases, damage: Callable[[HostReleases], None], backs_up: bool
) -> None:
    fill(host, 40)
    given = backed_up(host)
    damage(host)
    before = databases(host)
    told = restore(host, given)
    if not backs_up:
        assert (told.code, told.json["step"]) == (1, "backup")
        assert "What is there now cannot be backed up" in told.json["problem"]
        assert "invalid page" in told.json["problem"]
        assert f"nothing against backup {given}" in told.json["problem"]
        assert f"BACKUP={given} CONFIRM=prod WITHOUT_BACKUP=1" in told.json["next"]
        assert databases(host) == before
        asked = host.engine("restore", given, "--without-backup")
        assert "What is there now stays under another name, and no backup is made of it." in asked.err
        told = restore(host, given, "--without-backup")
    assert told.code == 0, told.err
    assert host.ask("/rows") == "40"
    assert bool(told.json["safety"]) is backs_up
    assert ("and in no backup" in told.json["message"]) is not backs_up
    elsewhere(host, f'DROP DATABASE "{told.json["kept_as"]}"')


def test_a_database_that_was_dropped_comes_back(host: HostReleases) -> None:
    fill(host, 50)
    media_file(host, "rows.txt", "50")
    given = backed_up(host)
    media_file(host, "rows.txt", "of later")
    of_database = "SELECT encoding, datcollate, datctype, pg_get_userbyid(datdba) FROM pg_database WHERE datname = "
    before = elsewhere(host, f"{of_database}'{host.name}'")
    elsewhere(host, f'DROP DATABASE "{host.name}" WITH (FORCE)')
    told = host.engine("backup", "--json")
    assert told.code == 1
    assert told.json["next"].startswith("make restore ENV=prod")
    told = host.engine("restore", given)
    assert f"This replaces database {host.name} (not there) of " in told.err
    assert "There is none that could be kept" in told.err
    told = restore(host, given)
    assert told.code == 0, told.err
    assert host.ask("/rows") == media(host, "cat", "rows.txt") == "50"
    assert elsewhere(host, f"{of_database}'{host.name}'") == before
    assert told.json["safety"] == ""
    assert f"database {host.name} was not there" in told.err
    # The media files that were in use are nowhere else.
    kept = f"/var/app/media/{media_writer.KEPT}/{told.json['kept_as']}/rows.txt"
    assert docker("exec", "--user", "0", host.containers()["web"][0], "cat", kept) == "of later"


@pytest.mark.parametrize("step", ["backup", "restore", "stop", "swap", "ready"])
def test_a_restore_of_a_dropped_database_that_is_killed_goes_on_by_the_same_command(
    host: HostReleases, step: str
) -> None:
    fill(host, 100_000)
    media_file(host, "rows.txt", "100000")
    given = backed_up(host)
    media_file(host, "rows.txt", "of later")
    elsewhere(host, f'DROP DATABASE "{host.name}" WITH (FORCE)')
    running = host.started("restore", given, "--confirm", "prod")
    until_step(running, step)
    host_releases.kill_group(running, signal.SIGKILL)
    running.communicate(timeout=60)
    told = restore(host, given)
    assert told.code == 0, told.err
    assert host.ask("/rows") == media(host, "cat", "rows.txt") == "100000"
    assert not unfinished_media(host)
    assert "_new_" not in databases(host)
