"""Backups by the clock, which of them stay, and what shows later that one is good: on the real engine."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from kit_engine import backup, backup_notes, verification
from kit_engine.backup import FOLDER, MANIFEST
from kit_engine.verification import DUMP
from support.backups import backed_up, fill, flip, folder_of, limits, manifest_of, names, sql, throw_aways
from support.engine_stack import docker
from support.host_releases import HostReleases

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def copied(host: HostReleases, given: str, wanted: str, kind: str) -> Path:
    """A backup as one that was made earlier would lie there."""
    folder = folder_of(host, wanted)
    folder.mkdir(mode=0o700)
    told = {**manifest_of(host, given), "id": wanted, "kind": kind, "made": backup.time_of(wanted)}
    (folder / MANIFEST).write_text(json.dumps(verification.sealed(told)))
    return folder


def test_old_ones_go_after_a_new_one_and_never_a_good_one_too_many(host: HostReleases) -> None:
    first = backed_up(host, "--level", "checksum")
    assert manifest_of(host, first)["kind"] == "manual"
    old = [copied(host, first, f"2020{month:02}01T000000Z-old", "scheduled") for month in range(1, 10)]
    before_releases = [copied(host, first, f"201901{day:02}T000000Z-old", "release") for day in range(1, 13)]
    cut_off = host.root / FOLDER / f"{backup.UNFINISHED}20180101T000000Z-old"
    cut_off.mkdir()
    broken = folder_of(host, "20170101T000000Z-old")
    broken.mkdir()
    dry = host.engine("prune-backups", "--json", "--dry-run")
    assert dry.code == 0, dry.err
    assert not dry.json["changed"]
    assert cut_off.exists()
    assert len([path for path in (*old, *before_releases) if path.exists()]) == 21
    told = host.engine("prune-backups", "--json")
    assert told.code == 0, told.err
    assert told.json["removed"] == dry.json["removed"]
    assert told.json["kept"][first] == "the newest"
    # Of nine months seven days stay; six months are among them.
    assert [path.name for path in old if path.exists()] == [path.name for path in old[2:]]
    gone = {path.name for path in (*old, *before_releases) if not path.exists()}
    assert gone == set(told.json["removed"])
    assert [path.name for path in before_releases if path.exists()] == [path.name for path in before_releases[2:]]
    assert not cut_off.exists()
    assert told.json["unknown"] == [broken.name]
    assert broken.exists()
    # What a backup does by itself, after it is verified.
    copied(host, first, "20190113T000000Z-old", "release")
    backed_up(host, "--level", "checksum")
    assert not before_releases[2].exists()
    assert host.engine("prune-backups").out.count("\nleft ") == 1
    broken.rmdir()


def test_where_the_newest_is_damaged_none_of_the_others_goes(host: HostReleases) -> None:
    given = backed_up(host, "--level", "checksum")
    for day in range(1, 13):
        copied(host, given, f"201801{day:02}T000000Z-old", "release")
    before = names(host)
    flip(folder_of(host, given) / DUMP)
    told = host.engine("prune-backups", "--json")
    assert told.code != 0
    assert told.json["code"] == "backup"
    assert names(host) == before
    # And it is not the newest good one any more.
    newest = backup.newest(host.root)
    assert newest is not None
    assert newest["id"] != given


def test_a_backup_is_verified_later_and_a_bad_one_is_told_and_not_taken(host: HostReleases) -> None:
    fill(host, 500)
    good = backed_up(host, "--level", "checksum")
    told = host.engine("verify-backup", "--json", "latest", "--level", "restore")
    assert told.code == 0, told.err
    assert (told.json["backup"], told.json["level"]) == (good, "restore")
    assert throw_aways(host) == []
    assert f"{good}, " in (lines := host.engine("backups").out.splitlines())[0]
    assert "verified by restore" in lines[0]
    fill(host, 7)
    bad = backed_up(host, "--level", "checksum")
    flip(folder_of(host, bad) / DUMP)
    told = host.engine("verify-backup", "--json", bad)
    assert told.code != 0
    assert "is not what was written" in told.json["problem"]
    assert throw_aways(host) == []
    assert "NOT GOOD" in host.engine("backups").out.splitlines()[0]
    told = host.engine("restore", "--json", "latest", "--confirm", "prod")
    assert told.code == 0, told.err
    assert told.json["backup"] == good
    assert sql(host, "SELECT count(*) FROM kit_rows") == "500"


def test_a_backup_that_does_not_restore_is_found_by_the_drill_and_not_taken(host: HostReleases) -> None:
    good = backed_up(host, "--level", "checksum")
    # Its function finds its table by a search path, which a restore has none of: pg_dump says nothing of that.
    sql(host, "CREATE TABLE kit_known (id int); INSERT INTO kit_known VALUES (1); "
              "CREATE FUNCTION kit_is_known(int) RETURNS boolean LANGUAGE sql "
              "AS 'SELECT EXISTS (SELECT FROM kit_known WHERE id = $1)'; "
              "CREATE TABLE kit_checked (id int CHECK (kit_is_known(id))); "
              "INSERT INTO kit_checked VALUES (1)")  # fmt: skip
    try:
        bad = backed_up(host, "--level", "read")
        told = host.engine("scheduled", "--json", "drill")
        assert told.code != 0
        assert "kit_known" in told.json["problem"]
        newest = backup.newest(host.root)
        assert newest is not None
        assert newest["id"] == good
        assert "NOT GOOD: The backup does not restore" in host.engine("backups").out.splitlines()[0]
        assert f"left     {bad} " in host.engine("prune-backups", "--dry-run").out
        # The next drill is of one that can be restored.
        told = host.engine("scheduled", "--json", "drill")
        assert (told.code, told.json["backup"]) == (0, good), told.err
        assert throw_aways(host) == []
    finally:
        sql(host, "DROP TABLE kit_checked; DROP FUNCTION kit_is_known; DROP TABLE kit_known")


def test_what_only_failed_to_be_shown_is_not_called_bad(host: HostReleases) -> None:
    given = backed_up(host, "--level", "checksum")
    container = host.containers()["db"][0]
    docker("stop", container)
    try:
        told = host.engine("verify-backup", "--json", given, "--level", "read")
    finally:
        docker("start", container)
    assert told.code != 0
    assert not (folder_of(host, given) / backup_notes.FILE).exists()
    end = time.monotonic() + 30
    while (told := host.engine("verify-backup", "--json", given, "--level", "read")).code and time.monotonic() < end:
        time.sleep(0.2)
    assert told.code == 0, told.err


def test_what_the_timers_run_is_recorded_and_stands_in_the_status(host: HostReleases) -> None:
    with limits(host, schedule="daily", drill_schedule="weekly", restore_test_max_bytes=0):
        told = host.engine("scheduled", "--json", "backup")
        assert told.code == 0, told.err
        given = told.json["backup"]
        assert (manifest_of(host, given)["kind"], manifest_of(host, given)["level"]) == ("scheduled", "read")
        # The drill restores whatever the size.
        told = host.engine("scheduled", "--json", "drill")
        assert told.code == 0, told.err
        status = host.engine("status", "--json").json
        assert status["restored"]["id"] == given
        assert status["restored"]["since"] < 60
        assert {what: one["last"]["ok"] for what, one in status["schedule"]["timers"].items()} == {
            "backup": True, "drill": True,
        }  # fmt: skip
        text = host.engine("status").out
        assert f"  restored     {given}, " in text
        before = names(host)
        with limits(host, min_free_bytes=2**60):
            told = host.engine("scheduled", "--json", "backup")
        assert told.code != 0
        assert names(host) == before
        last = host.engine("status", "--json").json["schedule"]["timers"]["backup"]["last"]
        assert not last["ok"]
        assert "The backup would not fit" in last["problem"]
        assert last["ended"] <= time.time()
        assert "FAILED: The backup would not fit" in host.engine("status").out


@pytest.mark.parametrize("emptied", ["TRUNCATE kit_rows", "DROP SCHEMA public CASCADE; CREATE SCHEMA public"])
def test_an_emptied_database_is_backed_up_by_hand_alone(host: HostReleases, emptied: str) -> None:
    fill(host, 20_000)
    good = backed_up(host)
    serving = host.current
    before = names(host)
    sql(host, emptied)
    try:
        told = host.deploy(host.version("two"), backup=True)
        assert (told.code, told.json["code"], told.json["step"]) == (1, "backup", "backup")
        assert f"backup {good} of it had 20,0" in told.json["problem"]
        assert f"BACKUP={good}" in told.json["next"]
        assert host.current == serving
        told = host.engine("scheduled", "--json", "backup")
        assert (told.code, told.json["code"]) == (1, "backup")
        assert names(host) == before
        assert throw_aways(host) == []
        # By hand it is meant, and what later ones are compared with.
        told = host.engine("backup", "--json")
        assert told.code == 0, told.err
        assert "warning: The database has " in told.err
        told = host.engine("scheduled", "--json", "backup")
        assert told.code == 0, told.err
        assert "warning" not in told.err
        assert (folder_of(host, good) / MANIFEST).exists()
    finally:
        # All of it comes back, tables too.
        assert host.engine("restore", "--json", good, "--confirm", "prod").code == 0
    assert sql(host, "SELECT count(*) FROM kit_rows") == "20000"
