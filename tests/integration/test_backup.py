"""What a backup is, and what becomes of one that goes wrong: a real database with rows, on the real engine."""

from __future__ import annotations

import json
import stat
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from kit_engine import backup, recovery, throw_away, verification
from kit_engine.backup import FOLDER, MANIFEST
from kit_engine.errors import EngineError
from kit_engine.verification import CONFIGURATION, DUMP, MEDIA_LIST, ROLES
from support import host_releases
from support.backups import (
    backed_up,
    choose_engine,
    databases,
    fill,
    flip,
    folder_of,
    limits,
    manifest_of,
    media,
    media_file,
    reseal,
    sql,
    throw_aways,
    until,
)
from support.engine_stack import docker
from support.host_releases import SECRETS, HostReleases

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# Inside a container: ends the loop of a writer.
# Reading so much takes longer than a writer is ever held up by a busy machine.
BUSY_BYTES = 200_000_000
ENOUGH = "/tmp/enough"  # noqa: S108 - nobody else's
WRITE = """
import os, sys
with open("busy.bin", "r+b") as file:
    while not os.path.exists(sys.argv[1]):
        os.pwrite(file.fileno(), b"x", 0)
os.remove(sys.argv[1])
"""


def restore(host: HostReleases, given: str) -> host_releases.Told:
    """Bring a backup back."""
    return host.engine("restore", "--json", given, "--confirm", "prod")


def test_a_backup_is_complete_and_says_what_it_is(host: HostReleases) -> None:
    fill(host, 1000)
    owner = media(host, "stat", "-c", "%u:%g %a", ".")
    media_file(host, "a folder/hello.txt", "hello")
    media_file(host, "again.txt", "hello")
    told = host.engine("backup", "--json")
    assert told.code == 0, told.err
    given = str(told.json["backup"]["id"])
    assert told.json["backup"]["level"] == "restore"
    assert "verified by restore: it was restored, and all" in told.err
    # What reads the media leaves them as they are; a volume of Docker's takes over owners where it may.
    assert media(host, "stat", "-c", "%u:%g %a", ".") == owner

    manifest, folder = manifest_of(host, given), folder_of(host, given)
    assert manifest["rows"]["public.kit_rows"] == 1000
    assert (manifest["project"], manifest["env"]) == (host.project, "prod")
    assert (manifest["release"], manifest["id"]) == (host.current, given)
    # The official image's server names its package too.
    assert manifest["server"].partition(" ")[0] == manifest["client"]
    assert manifest["server"].startswith("16.")
    assert set(manifest["files"]) == {DUMP, ROLES, CONFIGURATION, MEDIA_LIST}
    for name, one in manifest["files"].items():
        assert (folder / name).stat().st_size == one["bytes"]
        assert verification.sha256(folder / name) == one["sha256"]
    assert (manifest["media"]["files"], manifest["media"]["bytes"]) == (2, 10)
    entries = {one["path"]: one for one in verification.media_entries(folder)}
    assert set(entries) == {"a folder", "a folder/hello.txt", "again.txt"}
    assert entries["again.txt"]["sha256"] == entries["a folder/hello.txt"]["sha256"]
    assert verification.media_path(folder, entries["again.txt"]["sha256"]).read_text() == "hello"
    # Of the server that it was restored into, and of what read the media, nothing is left.
    assert throw_aways(host) == []


def test_no_secret_is_in_a_backup_and_nobody_else_reads_it(host: HostReleases) -> None:
    folder = folder_of(host, backed_up(host))
    with tarfile.open(folder / CONFIGURATION) as archive:
        inside = set(archive.getnames())
    assert {"stack.json", "docker-compose.prod.yml", ".env.prod", "nginx/nginx.conf"} <= inside
    assert f"records/{host.current}.json" in inside
    assert "PASSWORD" not in (folder / ROLES).read_text().upper()
    for path in [folder, *folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
        if path.is_file():
            assert [value for value in SECRETS.values() if value.encode() in path.read_bytes()] == []
    assert stat.S_IMODE((host.root / FOLDER).stat().st_mode) == 0o700


def test_the_role_reads_every_row_and_can_write_nothing(host: HostReleases) -> None:
    fill(host, 10)
    sql(host, "CREATE TABLE IF NOT EXISTS kit_secret_rows (id int); TRUNCATE kit_secret_rows; "
              "INSERT INTO kit_secret_rows SELECT generate_series(1, 7); "
              "ALTER TABLE kit_secret_rows ENABLE ROW LEVEL SECURITY; "
              "ALTER TABLE kit_secret_rows FORCE ROW LEVEL SECURITY")  # fmt: skip
    large = sql(host, "SELECT lo_from_bytea(0, 'large')").strip()
    try:
        given = backed_up(host)
        assert manifest_of(host, given)["rows"]["public.kit_secret_rows"] == 7
        as_role = {"user": "kit_backup"}
        assert sql(host, "SELECT count(*) FROM kit_secret_rows", **as_role) == "7"
        unlocked = "SET default_transaction_read_only = off; SET transaction_read_only = off; "
        for statement in (
            "INSERT INTO kit_rows (text) VALUES ('x')", "DELETE FROM kit_secret_rows", "CREATE TABLE mine (id int)",
            f"SELECT lo_put({large}, 0, 'x')", "ALTER ROLE kit_backup SUPERUSER", "CREATE ROLE another",
            "COPY kit_rows TO '/tmp/rows'",
        ):  # fmt: skip
            with pytest.raises(AssertionError, match="ERROR"):
                sql(host, unlocked + statement, **as_role)
        with pytest.raises(AssertionError, match="ERROR"):
            sql(host, "CREATE TEMPORARY TABLE mine (id int)", **as_role)
        # Over the network it is nobody: it has no password.
        assert sql(host, "SELECT rolpassword IS NULL FROM pg_authid WHERE rolname = 'kit_backup'") == "t"
    finally:
        sql(host, f"DROP TABLE kit_secret_rows; SELECT lo_unlink({large})")


def test_the_rows_are_those_of_the_snapshot_that_was_dumped(host: HostReleases) -> None:
    fill(host, 100_000)
    writer = subprocess.Popen(
        ["docker", "exec", host.containers()["db"][0], "sh", "-c",
         "while :; do psql -q -U \"$POSTGRES_USER\" -d \"$POSTGRES_DB\" -c \"INSERT INTO kit_rows (text) "
         "SELECT 'late' FROM generate_series(1, 50)\" || exit; [ -e /tmp/enough ] && exit; done"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        # The level restore compares what was dumped with what was counted: one row of difference fails it.
        given = backed_up(host)
        writing = writer.poll() is None
    finally:
        docker("exec", host.containers()["db"][0], "touch", ENOUGH)
        writer.wait(30)
        docker("exec", host.containers()["db"][0], "rm", ENOUGH)
    assert writing
    counted = manifest_of(host, given)["rows"]["public.kit_rows"]
    assert 100_000 <= counted < int(sql(host, "SELECT count(*) FROM kit_rows"))


def test_a_large_database_is_read_and_not_restored_and_the_output_says_so(host: HostReleases) -> None:
    with limits(host, restore_test_max_bytes=1000):
        told = host.engine("backup", "--json")
    assert told.code == 0, told.err
    assert told.json["backup"]["level"] == "read"
    assert "verified by read" in told.err
    assert "more than the 0.0 GiB of backup_restore_test_max_bytes" in told.err
    assert host.engine("backup", "--json", "--level", "checksum").json["backup"]["level"] == "checksum"


def test_ids_stay_unique_and_ordered_when_the_clock_jumps(host: HostReleases) -> None:
    first = backed_up(host, "--level", "checksum")
    # One that was made by a clock that went wrong.
    future = folder_of(host, "20900101T000000Z-later")
    future.mkdir()
    try:
        second, third = backed_up(host, "--level", "checksum"), backed_up(host, "--level", "checksum")
        assert first < future.name < second < third
        assert [one["id"] for one in backup.listed(host.root)][:3] == [third, second, first]
        # And its age is that of its making.
        assert backup.listed(host.root)[0]["age"] < 300
    finally:
        for name in [path.name for path in (host.root / FOLDER).glob("2090*")]:
            subprocess.run(["rm", "-r", folder_of(host, name)], check=True)


def test_a_thousand_backups_are_listed_and_the_newest_is_found(host: HostReleases, tmp_path: Path) -> None:
    told = manifest_of(host, backed_up(host, "--level", "checksum"))
    for number in range(1000):
        given = f"20200101T{number // 3600:02}{number // 60 % 60:02}{number % 60:02}Z-old"
        folder = tmp_path / FOLDER / given
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_text(json.dumps(verification.sealed({**told, "id": given})))
    begun = time.monotonic()
    assert len(backup.listed(tmp_path)) == 1000
    assert time.monotonic() - begun < 5
    newest = backup.newest(tmp_path)
    assert newest is not None
    assert newest["id"] == "20200101T001639Z-old"
    assert backup.free_id(tmp_path, "now") > newest["id"]


@pytest.mark.parametrize("where", ["here", "in a container"])
def test_media_are_copied_once_and_a_bad_copy_is_not_handed_on(
    host: HostReleases, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "in a container":
        choose_engine(tmp_path, monkeypatch)
    media(host, "sh", "-c", "rm -rf ./*")
    media_file(host, "kept.bin", "k" * 5000)
    first = folder_of(host, backed_up(host, "--level", "checksum"))
    media_file(host, "new.bin", "n" * 300)
    told = manifest_of(host, second := backed_up(host, "--level", "checksum"))
    assert told["media"]["copied"] == 300

    def kept(folder: Path) -> Path:
        entries = {one["path"]: one for one in verification.media_entries(folder)}
        return verification.media_path(folder, entries["kept.bin"]["sha256"])

    assert kept(first).stat().st_ino == kept(folder_of(host, second)).stat().st_ino
    # A bit turns on the disk, in the file that both have.
    flip(kept(first))
    third = backed_up(host, "--level", "checksum")
    assert kept(folder_of(host, third)).read_text() == "k" * 5000
    assert manifest_of(host, third)["media"]["copied"] == 5000
    # A change that keeps size and time of modification is seen all the same.
    media(host, "sh", "-c", "touch -r kept.bin /tmp/then; printf x | dd of=kept.bin conv=notrunc status=none; "
                            "touch -r /tmp/then kept.bin")  # fmt: skip
    fourth = backed_up(host, "--level", "checksum")
    assert kept(folder_of(host, fourth)).read_text() == "x" + "k" * 4999


def test_both_ways_to_media_give_the_same(host: HostReleases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media(host, "sh", "-c", "rm -rf ./*; mkdir -p a/b; echo x > a/b/c; ln -s a/b/c link; chmod 640 a/b/c; mkfifo pipe")
    # Read by whoever may read all.
    media(host, "sh", "-c", "echo own > closed; chmod 0 closed")
    here = list(verification.media_entries(folder_of(host, backed_up(host, "--level", "checksum"))))
    choose_engine(tmp_path, monkeypatch)
    inside = list(verification.media_entries(folder_of(host, backed_up(host, "--level", "checksum"))))
    assert here == inside
    assert {one["path"] for one in here} == {"a", "a/b", "a/b/c", "link", "closed"}
    media(host, "rm", "-f", "pipe", "closed")


def test_a_media_file_that_changes_while_it_is_read_is_read_anew_and_told(host: HostReleases) -> None:
    media(host, "sh", "-c", f"head -c {BUSY_BYTES} /dev/zero > busy.bin")
    container = host.containers()["web"][0]
    first = media(host, "stat", "-c", "%y", "busy.bin")
    words = ["docker", "exec", "--workdir", "/var/app/media", container, "python", "-c", WRITE, ENOUGH]
    writer = subprocess.Popen(words)
    try:
        until(lambda: media(host, "stat", "-c", "%y", "busy.bin") != first, writer)
        told = host.engine("backup", "--json", "--level", "checksum")
    finally:
        docker("exec", container, "touch", ENOUGH)
        writer.wait(30)
    try:
        assert told.code == 0, told.err
        assert "media file 'busy.bin' was written to whenever it was read" in told.err
        manifest = manifest_of(host, str(told.json["backup"]["id"]))
        assert manifest["media"]["changed"] == ["busy.bin"]
        # It was sent three times, and the next backup does not take it for known.
        assert manifest["media"]["copied"] >= 3 * BUSY_BYTES
        assert manifest_of(host, backed_up(host, "--level", "checksum"))["media"]["copied"] == BUSY_BYTES
    finally:
        media(host, "rm", "busy.bin")


def test_an_earlier_kits_backup_is_listed_and_comes_back(host: HostReleases) -> None:
    fill(host, 21)
    given = backed_up(host)
    old = manifest_of(host, given)
    for name in set(old) - {"id", "project", "env", "release", "database", "server", "bytes", "sha256", "level"}:
        del old[name]
    (folder_of(host, given) / MANIFEST).write_text(json.dumps({**old, "seconds": 1.0, "engine": "0.1.0", "schema": 1}))
    fill(host, 3)
    assert f"{given}, " in host.engine("backups").out
    told = restore(host, given)
    assert told.code == 0, told.err
    assert host.ask("/rows") == "21"


CUTS = (99, 90, 50, 10)


@pytest.mark.parametrize(
    "fault",
    [*(f"dump cut to {part} %" for part in CUTS), *(f"bit in {name}" for name in
     (DUMP, ROLES, CONFIGURATION, MEDIA_LIST, MANIFEST, "media")), "uncompressed bit", "no manifest", "no seal",
     "no dump", "no media file", "other project", "other environment", "newer server"],
)  # fmt: skip
def test_what_is_not_whole_or_not_ours_is_refused(host: HostReleases, fault: str) -> None:
    fill(host, 50)
    media_file(host, "one.txt", "one file")
    given = backed_up(host, "--level", "checksum")
    folder = folder_of(host, given)
    (entry,) = [one for one in verification.media_entries(folder) if one["path"] == "one.txt"]
    kept = verification.media_path(folder, entry["sha256"])
    dump, before = folder / DUMP, databases(host)
    if fault.startswith("dump cut"):
        content = dump.read_bytes()
        dump.write_bytes(content[: len(content) * int(fault.split()[-2]) // 100])
    elif fault.startswith("bit in"):
        flip(kept if fault.endswith("media") else folder / fault.split()[-1])
    elif fault == "uncompressed bit":
        # pg_restore reads this without a word, and restores a wrong row.
        plain = ["pg_dump", "--format=custom", "--compress=0", f"--username={host.name}", f"--dbname={host.name}"]
        made = subprocess.run(["docker", "exec", host.containers()["db"][0], *plain], capture_output=True, check=True)
        row = sql(host, "SELECT text FROM kit_rows LIMIT 1").encode()
        dump.write_bytes(made.stdout)
        reseal(folder)
        dump.write_bytes(made.stdout.replace(row, bytes([row[0] ^ 1]) + row[1:], 1))
        assert dump.read_bytes() != made.stdout
    elif fault == "no manifest":
        (folder / MANIFEST).unlink()
    elif fault == "no seal":
        manifest = manifest_of(host, given)
        del manifest["seal"]
        (folder / MANIFEST).write_text(json.dumps(manifest))
    elif fault in ("no dump", "no media file"):
        (dump if fault == "no dump" else kept).unlink()
    else:
        changed = {"other project": ("project", "another"), "other environment": ("env", "dev"),
                   "newer server": ("server", "99.1")}[fault]  # fmt: skip
        reseal(folder, **dict([changed]))
    told = restore(host, given)
    assert told.code == 1
    assert told.json["code"] == "backup"
    assert "Nothing was changed" in told.json["problem"]
    assert host.ask("/rows") == "50"
    assert databases(host) == before


@pytest.mark.parametrize("part", [*CUTS, "bit"])
def test_a_read_finds_what_the_table_of_contents_does_not(host: HostReleases, part: int | str) -> None:
    """The level itself, for a dump that was bad before its checksum was made."""
    fill(host, 20_000)
    folder = folder_of(host, backed_up(host, "--level", "checksum"))
    wanted = recovery.docker_of(host.root, host.current)
    server, dump = wanted.running("db"), folder / DUMP
    verification.read(wanted, None, server, folder, json.loads((folder / MANIFEST).read_text()))
    content = dump.read_bytes()
    if part == "bit":
        flip(dump)
    else:
        dump.write_bytes(content[: len(content) * int(part) // 100])
    with pytest.raises(EngineError, match="cannot be read back"):
        verification.read(wanted, None, server, folder, json.loads((folder / MANIFEST).read_text()))


def test_a_restore_finds_rows_that_are_lacking(host: HostReleases) -> None:
    fill(host, 100)
    folder = folder_of(host, backed_up(host, "--level", "checksum"))
    wanted = recovery.docker_of(host.root, host.current)
    database = wanted.stack.database
    assert database is not None
    told = json.loads((folder / MANIFEST).read_text())
    told["rows"]["public.kit_rows"] = 101
    size = told["database_bytes"]
    # In memory, and on the disk.
    for bytes_of_database in (size, size + throw_away.SMALL_BYTES):
        with (
            throw_away.server_like(wanted, wanted.running("db"), database, bytes_of_database) as trial,
            pytest.raises(EngineError, match=r"public\.kit_rows: 101 dumped, 100"),
        ):
            verification.restore(wanted, None, trial, folder, told)
    assert throw_aways(host) == []
