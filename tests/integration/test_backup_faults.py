"""A backup that is killed, refused, out of room or out of time leaves nothing, and loses no earlier one."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from kit_engine import backup, throw_away
from kit_engine.backup import FOLDER
from kit_engine.verification import DUMP
from support.backups import (
    FILLER,
    backed_up,
    choose_engine,
    fill,
    folder_of,
    leave_room,
    limits,
    media,
    names,
    reseal,
    small_disk,
    sql,
    throw_aways,
)
from support.engine_stack import docker
from support.host_releases import HostReleases

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def demand_no_session(host: HostReleases) -> None:
    """Nothing of a backup that has failed goes on inside the server either."""
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'kit_backup'"
    end = time.monotonic() + 10
    while sql(host, sessions) != "0":
        assert time.monotonic() < end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("victim", ["pg_dump", "engine"])
def test_a_backup_that_is_killed_leaves_none(host: HostReleases, victim: str, number: signal.Signals) -> None:
    fill(host, 400_000)
    before, container = (
        {name for name in names(host) if not name.startswith(backup.UNFINISHED)},
        host.containers()["db"][0],
    )
    running = host.started("backup", "--json")
    while running.poll() is None:
        rows = docker("top", container, "-eo", "pid,args").splitlines()
        found = [row for row in rows if row.split(maxsplit=1)[1].startswith("pg_dump --format=custom --snapshot")]
        if found:
            if victim == "engine":
                os.killpg(running.pid, number)
            else:
                os.kill(int(found[0].split()[0]), number)
            break
    out, err = running.communicate(timeout=60)
    assert running.returncode != 0, err
    if victim == "pg_dump":
        assert json.loads(out.splitlines()[-1])["code"] == "backup"
    if (victim, number) != ("engine", signal.SIGKILL):
        assert names(host) == before
        demand_no_session(host)
    # And the next one clears away what there is.
    given = backed_up(host, "--level", "checksum")
    assert names(host) == before | {given}


@pytest.mark.parametrize(
    ("victim", "number"),
    [
        *(("reader", signal.SIGKILL), ("reader in a container", signal.SIGKILL)),
        *(("engine", signal.SIGTERM), ("engine", signal.SIGKILL)),
    ],
)
def test_a_backup_that_is_killed_while_media_are_copied_leaves_none(
    host: HostReleases, victim: str, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dump goes on beside the copy, and ends with it."""
    if victim == "reader in a container":
        choose_engine(tmp_path, monkeypatch)
    fill(host, 400_000)
    media(host, "sh", "-c", "head -c 400000000 /dev/urandom > big.bin")
    before = {name for name in names(host) if not name.startswith(backup.UNFINISHED)}
    try:
        running = host.started("backup", "--json", "--level", "checksum")
        while not list((host.root / FOLDER).glob(f"{backup.UNFINISHED}*/.media")):
            assert running.poll() is None
        if victim == "engine":
            os.killpg(running.pid, number)
        elif victim == "reader":
            # Its own text is among its arguments.
            children = " ".join(one.read_text() for one in Path(f"/proc/{running.pid}/task").glob("*/children")).split()
            (reader,) = (
                one for one in children if b"kit_engine.backup_media" in Path(f"/proc/{one}/cmdline").read_bytes()
            )
            os.kill(int(reader), number)
        else:
            (reader,) = throw_aways(host)
            docker("kill", reader)
        out, err = running.communicate(timeout=60)
    finally:
        media(host, "rm", "big.bin")
    assert running.returncode != 0, err
    if victim != "engine":
        told = json.loads(out.splitlines()[-1])
        assert told["code"] == "backup"
        assert "cannot be read whole" in told["problem"]
    if (victim, number) != ("engine", signal.SIGKILL):
        assert names(host) == before
        assert throw_aways(host) == []
        demand_no_session(host)
    given = backed_up(host, "--level", "checksum")
    assert throw_aways(host) == []
    assert names(host) == before | {given}


def test_a_restore_test_that_is_killed_is_removed_by_the_next_run(host: HostReleases) -> None:
    # More than goes into memory.
    fill(host, 1_000_000)
    assert int(sql(host, "SELECT pg_database_size(current_database())")) > throw_away.SMALL_BYTES
    before = names(host)
    running = host.started("backup")
    while not any("restore-test" in name for name in throw_aways(host)):
        assert running.poll() is None
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate(timeout=60)
    # One that was still being made may come a moment later.
    time.sleep(2)
    (left,) = throw_aways(host)
    volume = docker("inspect", "--format", "{{range .Mounts}}{{.Name}}{{end}}", left).strip()
    assert volume in docker("volume", "ls", "--quiet").split()
    given = backed_up(host, "--level", "checksum")
    assert throw_aways(host) == []
    assert volume not in docker("volume", "ls", "--quiet").split()
    assert names(host) == before | {given}
    fill(host, 10)


@pytest.mark.parametrize("stage", ["dump", "media", "small files", "known beforehand"])
def test_a_full_disk_leaves_the_good_backup_and_no_other(host: HostReleases, stage: str) -> None:
    fill(host, 10)
    with small_disk(host, 12):
        good = backed_up(host, "--level", "read")
        if stage == "dump":
            # The last dump was small beside a database as large, so that this one is expected to fit.
            sql(host, "INSERT INTO kit_rows (text) SELECT string_agg(sha512(random()::text::bytea)::text, '') "
                      "FROM generate_series(1, 300000) i GROUP BY i / 10")  # fmt: skip
            reseal(folder_of(host, good), database_bytes=10**9)
        elif stage == "media":
            media(host, "sh", "-c", "head -c 14000000 /dev/urandom > big.bin")
        elif stage == "small files":
            # The dump itself just fits.
            leave_room(host, (folder_of(host, good) / DUMP).stat().st_size + 3 * 4096)
        else:
            fill(host, 200_000)
            reseal(folder_of(host, good), bytes=10**9)
        try:
            told = host.engine("backup", "--json", "--level", "read")
        finally:
            if stage == "media":
                media(host, "rm", "big.bin")
        assert told.code == 1, told.out
        assert told.json["code"] in ("backup", "files")
        if stage in ("media", "known beforehand"):
            assert "would not fit" in told.json["problem"]
        assert names(host) - {FILLER} == {good}
        assert [one["id"] for one in backup.listed(host.root)] == [good]
        # With room again the next one is made.
        (host.root / FOLDER / FILLER).unlink(missing_ok=True)
        fill(host, 10)
        backed_up(host, "--level", "checksum")


def test_a_server_that_refuses_the_role_leaves_no_backup(host: HostReleases) -> None:
    """As with a wrong password: pg_hba.conf asks for one, and there is none."""
    before, container = names(host), host.containers()["db"][0]
    rules = "/var/lib/postgresql/data/pg_hba.conf"
    docker(
        "exec",
        container,
        "sh",
        "-c",
        f"cp -p {rules} /tmp/rules; sed -i '1i local all kit_backup scram-sha-256' {rules}",
    )
    sql(host, "SELECT pg_reload_conf()")
    try:
        told = host.engine("backup", "--json")
    finally:
        docker("exec", container, "sh", "-c", f"cat /tmp/rules > {rules}; rm /tmp/rules")
        sql(host, "SELECT pg_reload_conf()")
    assert told.code == 1
    assert told.json["code"] == "backup"
    assert "does not let role kit_backup read it" in told.json["problem"]
    assert names(host) == before


def test_a_server_that_stops_leaves_no_backup(host: HostReleases) -> None:
    before, container = names(host), host.containers()["db"][0]
    fill(host, 400_000)
    running = host.started("backup", "--json")
    while not list((host.root / FOLDER).glob(f"{backup.UNFINISHED}*/{DUMP}")):
        assert running.poll() is None
    docker("kill", container)
    out, err = running.communicate(timeout=90)
    assert running.returncode == 1, err
    assert json.loads(out.splitlines()[-1])["code"] == "backup"
    assert names(host) == before
    stopped = host.engine("backup", "--json")
    assert stopped.code == 1
    assert stopped.json["code"] == "stopped"
    assert names(host) == before
    told = host.deploy(None)
    assert told.code == 0, told.err
    assert host.ask("/rows") == "400000"


def test_a_backup_that_takes_too_long_is_ended(host: HostReleases) -> None:
    before = names(host)
    fill(host, 400_000)
    with limits(host, timeout_seconds=0):
        told = host.engine("backup", "--json")
    assert told.code == 1
    assert "backup_timeout_seconds" in told.json["problem"]
    assert names(host) == before


def test_label_of_what_is_thrown_away_is_no_containers_of_the_stack(host: HostReleases) -> None:
    assert throw_away.LABEL not in docker("inspect", host.containers()["db"][0])
