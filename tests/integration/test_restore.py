"""A backup of a real database with rows in it, brought back on the real engine."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import pytest
from kit_engine import throw_away, verification
from kit_engine.backup import FOLDER, MANIFEST
from kit_engine.restore import STEPS
from kit_engine.verification import DUMP
from support import host_releases
from support.backups import (
    backed_up,
    databases,
    folder_of,
    leave_room,
    limits,
    manifest_of,
    media,
    media_file,
    media_files,
    names,
    reseal,
    small_disk,
    throw_aways,
    unfinished_media,
    until_step,
)
from support.engine import base_image
from support.engine_stack import docker
from support.host_releases import HostReleases
from support.traffic import OK

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def sql(host: HostReleases, statement: str) -> str:
    """Ask the database."""
    words = ["psql", "--no-align", "--tuples-only", f"--username={host.name}", f"--dbname={host.name}"]
    return docker("exec", host.containers()["db"][0], *words, f"--command={statement}").strip()


def fill(host: HostReleases, rows: int) -> None:
    """Have just so many rows."""
    sql(host, f"TRUNCATE kit_rows; INSERT INTO kit_rows (text) SELECT md5(i::text) FROM generate_series(1, {rows}) i")  # noqa: S608 - a number


def deny_room(container: str, size: int | str) -> None:
    """Let no file grow beyond so many bytes that the first process of a container writes, or later ones of its."""
    pid = docker("inspect", "--format", "{{.State.Pid}}", container).strip()
    # Nobody else but a user's own processes may, for want of a capability.
    owner = Path(f"/proc/{pid}").stat()
    words = ["prlimit", f"--pid={pid}", f"--fsize={size}:unlimited"]
    subprocess.run(words, user=owner.st_uid, group=owner.st_gid, check=True)


@contextmanager
def following(host: HostReleases) -> Iterator[list[str]]:
    """Note which of web and of what writes media files back was started meanwhile, in that order."""
    found: list[str] = []
    since = time.time()
    yield found
    words = ["--since", f"{since:.3f}", "--until", f"{time.time():.3f}", "--filter", "event=start"]
    names = docker("events", *words, "--format", "{{.Actor.Attributes.name}}").split()
    ours = [name.removeprefix(f"{host.project}-").partition("-")[0] for name in names if host.project in name]
    found += [kind for kind in ours if kind in ("web", "media")]


def restore(host: HostReleases, backup: str, confirm: str = "prod") -> host_releases.Told:
    """Bring a backup back."""
    return host.engine("restore", "--json", backup, "--confirm", confirm)


def test_rows_come_back_and_those_of_before_stay(host: HostReleases) -> None:
    fill(host, 1000)
    first = backed_up(host)
    checksum = sql(host, "SELECT md5(string_agg(text, ',' ORDER BY text)) FROM kit_rows")
    fill(host, 7)
    told = restore(host, first)
    assert told.code == 0, told.err
    assert host.ask("/rows") == "1000"
    assert sql(host, "SELECT md5(string_agg(text, ',' ORDER BY text)) FROM kit_rows") == checksum
    kept, container = told.json["kept_as"], host.containers()["db"][0]
    words = ["psql", "-At", f"--username={host.name}", f"--dbname={kept}", "--command=SELECT count(*) FROM kit_rows"]
    assert docker("exec", container, *words).strip() == "7"
    # And what was there lies in a backup, too; twice the same changes nothing but that.
    assert restore(host, told.json["safety"]).code == 0
    assert host.ask("/rows") == "7"
    assert restore(host, first).code == 0
    assert host.ask("/rows") == "1000"
    log = (host.root / f"records/{host.current}.log").read_text()
    assert log.count("--- restore, by ") == 3
    assert log.count("--- backup, by ") == 1
    assert "[6/7] swap" in log


@pytest.mark.parametrize("fault", ["flipped bit", "cut off", "other project", "no manifest", "other name"])
def test_what_is_not_whole_or_not_ours_is_refused_and_nothing_changed(host: HostReleases, fault: str) -> None:
    fill(host, 50)
    backup = backed_up(host)
    folder = host.root / FOLDER / backup
    dump, manifest = folder / DUMP, folder / MANIFEST
    databases = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database"
    before = sql(host, databases)
    if fault == "flipped bit":
        content = bytearray(dump.read_bytes())
        content[len(content) // 2] ^= 1
        dump.write_bytes(content)
    elif fault == "cut off":
        dump.write_bytes(dump.read_bytes()[:-1])
    elif fault == "other project":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "project": "another"}))
    elif fault == "no manifest":
        manifest.unlink()
    told = restore(host, backup, confirm="local" if fault == "other name" else "prod")
    assert told.code != 0
    assert "Nothing was changed" in told.json["problem"] or fault == "no manifest"
    assert host.ask("/rows") == "50"
    assert sql(host, databases) == before


def test_files_are_nobody_elses(host: HostReleases) -> None:
    folder = host.root / FOLDER / backed_up(host)
    assert {oct(path.stat().st_mode & 0o777) for path in (folder, folder.parent)} == {"0o700"}
    assert oct((folder / DUMP).stat().st_mode & 0o777) == "0o600"


def test_a_dump_that_is_killed_leaves_no_backup_and_stops_the_release(host: HostReleases) -> None:
    before = {path.name for path in (host.root / FOLDER).glob("*")}
    release, container = host.current, host.containers()["db"][0]
    sql(host, "TRUNCATE kit_rows; INSERT INTO kit_rows (text) SELECT repeat(md5(i::text), 9) FROM "
              "generate_series(1, 400000) i")  # fmt: skip
    running = host.started(*host.prepare_words(host.made[0], backup=True))
    running.stdin.write(host.archive(host.made[0]))  # type: ignore[union-attr]  # it is a pipe
    running.stdin.close()  # type: ignore[union-attr]  # it is a pipe
    killed = False
    while running.poll() is None and not killed:
        dumps = [
            row
            for row in docker("top", container, "-eo", "pid,args").splitlines()
            if "pg_dump --format=custom --snapshot" in row
        ]
        for row in dumps:
            os.kill(int(row.split()[0]), signal.SIGKILL)
            killed = True
    out = running.stdout.read().decode()  # type: ignore[union-attr]  # it is a pipe
    assert running.wait(60) == 1
    assert killed
    assert json.loads(out.splitlines()[-1])["code"] == "backup"
    assert {path.name for path in (host.root / FOLDER).glob("*")} == before
    assert host.current == release
    assert host.ask("/rows") == "400000"


@pytest.mark.parametrize("victim", ["writer", "engine", "room"])
def test_a_restore_that_is_ended_while_media_are_laid_down_changes_nothing(host: HostReleases, victim: str) -> None:
    """They are laid down beside the load, which ends with it."""
    fill(host, 400_000)
    media(host, "sh", "-c", "head -c 400000000 /dev/urandom > big.bin")
    given = backed_up(host)
    media(host, "sh", "-c", "rm big.bin; printf 3 > rows.txt")
    fill(host, 3)
    before = databases(host)
    running = host.started("restore", "--json", given, "--confirm", "prod")
    until_step(running, "restore")
    # One that is still being made cannot be killed.
    while not (found := throw_aways(host, "--filter", "status=running")):
        assert running.poll() is None
    if victim == "engine":
        host_releases.kill_group(running, signal.SIGTERM)
    elif victim == "writer":
        docker("kill", *found)
    else:
        deny_room(found[0], 1000)
    out, err = running.communicate(timeout=120)
    assert running.returncode != 0, err
    if victim != "engine":
        told = json.loads(out.splitlines()[-1])
        assert told["code"] == "backup"
        assert "Those in use were not touched" in told["problem"]
        assert ("File too large" in told["problem"]) == (victim == "room")
    assert databases(host) == before
    assert host.ask("/rows") == media(host, "cat", "rows.txt") == "3"
    assert not unfinished_media(host)
    assert "./big.bin" not in media_files(host)
    assert throw_aways(host) == []


def test_a_server_that_runs_out_of_room_serves_on_with_what_it_has(host: HostReleases) -> None:
    fill(host, 400_000)
    given = backed_up(host)
    fill(host, 3)
    before, server = databases(host), host.containers()["db"][0]
    # A piece of its journal has 16 MiB, the table's file twice that.
    deny_room(server, 17 * 2**20)
    try:
        told = restore(host, given)
    finally:
        deny_room(server, "unlimited")
    assert told.code == 1
    assert told.json["step"] == "restore"
    assert "could not extend file" in told.json["problem"]
    assert databases(host) == before
    assert host.ask("/rows") == "3"
    assert restore(host, given).code == 0
    assert host.ask("/rows") == "400000"


def test_without_room_for_a_backup_of_what_is_there_nothing_is_replaced(host: HostReleases) -> None:
    with small_disk(host, 12):
        fill(host, 50)
        given = backed_up(host)
        fill(host, 4)
        leave_room(host, 4096)
        before = (databases(host), names(host))
        told = restore(host, given)
        assert (told.code, told.json["step"]) == (1, "backup")
        assert (databases(host), names(host)) == before
        assert host.ask("/rows") == "4"


@pytest.mark.parametrize("step", STEPS)
def test_a_restore_that_is_killed_leaves_a_database_that_serves(host: HostReleases, step: str) -> None:
    fill(host, 200_000)
    media_file(host, "rows.txt", "200000")
    backup = backed_up(host)
    fill(host, 3)
    media_file(host, "rows.txt", "3")
    running = host.started("restore", backup, "--confirm", "prod")
    until_step(running, step)
    host_releases.kill_group(running, signal.SIGKILL)
    running.communicate(timeout=60)
    # The next command that changes the host makes it whole.
    with following(host) as happened:
        told = host.deploy(None)
    assert told.code == 0, told.err
    # Nobody writes to media files that have to follow the database still.
    assert [kind for kind, _ in groupby(happened)] in (["media", "web"], ["media"], ["web"], []), happened
    assert (rows := host.ask("/rows")) in ("3", "200000")
    # Rows and media files are of one backup, whichever.
    assert media(host, "cat", "rows.txt") == rows
    assert not unfinished_media(host)
    assert restore(host, backup).code == 0
    assert host.ask("/rows") == "200000"
    assert media(host, "cat", "rows.txt") == "200000"
    # Of what was loaded when it was killed nothing is left.
    assert sql(host, "SELECT count(*) FROM pg_database WHERE datname LIKE '%\\_new\\_%'") == "0"


def test_what_is_written_during_a_restore_lies_in_one_database_or_the_other(host: HostReleases) -> None:
    fill(host, 500)
    given = backed_up(host)
    fill(host, 20)
    with host.traffic(20.0).running() as load:
        time.sleep(1)
        told = restore(host, given)
        time.sleep(1)
    assert told.code == 0, told.err
    written = sum(one.method == "POST" and one.status == OK for one in load.requests)
    assert written > 10
    words = ["psql", "-At", f"--username={host.name}", f"--dbname={told.json['kept_as']}"]
    kept = int(docker("exec", host.containers()["db"][0], *words, "--command=SELECT count(*) FROM kit_rows"))
    # One whose answer was cut off may have been written all the same.
    cut_off = sum(one.method == "POST" and one.status != OK for one in load.requests)
    assert written <= (kept - 20) + (int(host.ask("/rows")) - 500) <= written + cut_off


def test_names_of_the_list(host: HostReleases) -> None:
    backed_up(host)
    told = host.engine("backups").out
    manifests = Path(host.root / FOLDER).glob(f"*/{MANIFEST}")
    # Some were spoiled by the tests above.
    whole = [path.parent.name for path in manifests if verification.is_sealed(json.loads(path.read_text()))]
    assert whole
    assert sorted(line.partition(",")[0] for line in told.splitlines()) == sorted(whole)


def test_what_is_replaced_is_told_and_other_rows_than_those_of_the_backup_never_serve(host: HostReleases) -> None:
    fill(host, 300)
    given = backed_up(host)
    told = host.engine("restore", given)
    assert told.code != 0
    assert f"This replaces database {host.name} (" in told.err
    assert f"on host {platform.node()} by backup {given}, " in told.err
    manifest = manifest_of(host, given)
    reseal(folder_of(host, given), rows={**manifest["rows"], "public.kit_rows": 301})
    serving = databases(host)
    told = restore(host, given)
    assert told.code != 0
    assert "public.kit_rows: 301 dumped, 300" in told.json["problem"]
    assert host.ask("/rows") == "300"
    assert databases(host) == serving


def test_a_database_bigger_than_the_free_space_is_refused_before_anything_changed(host: HostReleases) -> None:
    fill(host, 30)
    given = backed_up(host)
    before = (databases(host), names(host))
    with limits(host, min_free_bytes=10**15):
        told = restore(host, given)
    assert told.code == 1
    assert told.json["step"] == "check"
    assert "The restored database of " in told.json["problem"]
    assert "would not fit" in told.json["problem"]
    assert (databases(host), names(host)) == before
    assert host.ask("/rows") == "30"


def test_what_killed_runs_have_left_goes_before_room_is_asked_for(host: HostReleases) -> None:
    fill(host, 30)
    given = backed_up(host)
    kept = restore(host, given).json["kept_as"]
    left = f"{host.name}_new_20260101_000000"
    sql(host, f'CREATE DATABASE "{left}"')
    label = f"{throw_away.LABEL}={host.project}"
    docker("run", "--detach", "--label", label, "--entrypoint", "sleep", base_image("postgres"), "600")
    with limits(host, min_free_bytes=10**15):
        told = restore(host, given)
    assert (told.code, told.json["step"]) == (1, "check")
    assert throw_aways(host) == []
    assert left not in databases(host).split()
    # What a restore has kept is somebody's to drop.
    assert kept in databases(host).split()
    assert f"{kept} (" in told.json["problem"]
    assert "make shell ENV=prod ARGS=db, and there: dropdb" in told.json["next"]
    assert host.ask("/rows") == "30"


def test_media_files_come_back_with_the_database(host: HostReleases) -> None:
    media(host, "sh", "-c", "rm -rf ./*")
    media_file(host, "pictures/kept.txt", "kept")
    media_file(host, "pictures/changed.txt", "as it was")
    media_file(host, "pictures/same.txt", "the same")
    owner = media(host, "stat", "-c", "%u:%g %a", "pictures", "pictures/kept.txt")
    given = backed_up(host)
    media_file(host, "pictures/changed.txt", "changed")
    media_file(host, "later.txt", "later")
    media(host, "rm", "pictures/kept.txt")
    told = restore(host, given)
    assert told.code == 0, told.err
    assert told.json["media"]
    assert media_files(host) == {"./pictures/kept.txt", "./pictures/changed.txt", "./pictures/same.txt"}
    assert media(host, "cat", "pictures/changed.txt") == "as it was"
    assert media(host, "stat", "-c", "%u:%g %a", "pictures", "pictures/kept.txt") == owner
    # A restore is a change to each file, and what stayed as it was is not copied anew.
    assert manifest_of(host, backed_up(host, "--level", "checksum"))["media"]["copied"] == len("kept" + "as it was")
    # What was there lies in the backup that was made of it.
    assert restore(host, told.json["safety"]).code == 0
    assert media(host, "cat", "later.txt") == "later"
    assert throw_aways(host) == []
