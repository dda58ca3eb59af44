"""Copies of backups elsewhere: by the real restic, over SFTP and to an S3 server, from the real engine's backups."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit_engine import backup, offsite_place
from kit_engine.backup import FOLDER
from kit_engine.verification import DUMP
from support import offsite
from support.backups import (
    FILLER,
    backed_up,
    fill,
    flip,
    folder_of,
    leave_room,
    manifest_of,
    media_file,
    names,
    small_disk,
    sql,
)
from support.host_releases import HostReleases
from support.offsite import CANARY, Place, configured

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture
def sftp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place that is reached by SFTP."""
    made = offsite.by_sftp(tmp_path)
    monkeypatch.setenv("PATH", f"{made.programs}:{os.environ['PATH']}")
    return made


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A bucket."""
    with offsite.by_s3(tmp_path) as made:
        monkeypatch.setenv("PATH", f"{made.programs}:{os.environ['PATH']}")
        yield made


@pytest.fixture
def append_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A bucket whose credentials may add, and remove nothing."""
    with offsite.by_s3(tmp_path, append_only=True) as made:
        monkeypatch.setenv("PATH", f"{made.programs}:{os.environ['PATH']}")
        yield made


@pytest.fixture(autouse=True)
def none_before(host: HostReleases) -> None:
    """Nothing of another test's copies."""
    shutil.rmtree(host.root / FOLDER, ignore_errors=True)
    (host.root / offsite_place.RECORD).unlink(missing_ok=True)


def state(host: HostReleases) -> dict[str, Any]:
    """What is known of the last copy."""
    told: dict[str, Any] = json.loads((host.root / offsite_place.RECORD).read_text())
    return told


def files(folder: Path) -> dict[str, bytes]:
    """All that a backup holds."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["sftp", "s3", "append_only"])
def test_a_backup_is_restored_from_its_copy_alone(
    host: HostReleases, request: pytest.FixtureRequest, kind: str
) -> None:
    place: Place = request.getfixturevalue(kind)
    fill(host, 700)
    media_file(host, "kept/here.txt", f"{CANARY}-content")
    with configured(host, place):
        given = backed_up(host, "--level", "checksum")
        before = files(folder_of(host, given))
        listed = host.engine("backups", "--json").json
        assert listed["backups"][0]["where"] == ["host", "off-site"]
        if place.folder:
            stored = b"".join(path.read_bytes() for path in place.folder.rglob("*") if path.is_file())
            assert CANARY.encode() not in stored
            assert b"BatchMode" not in stored
            assert CANARY not in place.log.read_text()
        assert host.engine("copy-offsite", "--json").json["copied"] == []

        shutil.rmtree(host.root / FOLDER)
        fill(host, 3)
        told = host.engine("backups", "--json").json
        assert (told["backups"], told["offsite_only"]) == ([], [given])
        asks = host.engine("restore", "latest", "--json")
        assert asks.code != 0
        assert given in asks.out
        # Nothing was fetched before somebody said yes.
        assert not names(host)
        done = host.engine("restore", given, "--confirm", "prod", "--json")
        assert done.code == 0, done.out + done.err
        assert sql(host, "SELECT count(*) FROM kit_rows") == "700"
        assert files(folder_of(host, given)) == before
        assert [name for name in names(host) if name.startswith(".")] == []


def test_a_place_that_is_away_leaves_the_backup_and_is_made_up_for(host: HostReleases, sftp: Place) -> None:
    with configured(host, sftp):
        first = backed_up(host, "--level", "checksum")
        sftp.gone.touch()
        told = host.engine("backup", "--level", "checksum", "--json")
        assert told.code == 1
        assert told.json["code"] == "offsite"
        assert "is good and lies on this host" in told.json["problem"]
        assert "could not be copied off-site" in told.json["problem"]
        assert "Connection refused" in told.json["problem"]
        newest = backup.newest(host.root)
        assert newest is not None
        assert newest["id"] != first
        status = host.engine("status").out
        assert "FAILED" in next(line for line in status.splitlines() if "off-site" in line)
        listed = host.engine("backups")
        assert listed.code == 0
        assert "which lie off-site is not known" in listed.out
        # A timer's run fails as well, although the backup stands.
        scheduled = host.engine("scheduled", "backup", "--json")
        assert scheduled.code == 1
        assert not json.loads((host.root / "records/scheduled.json").read_text())["backup"]["ok"]
        sftp.gone.unlink()
        done = host.engine("copy-offsite", "--json")
        assert done.code == 0, done.err
        assert len(done.json["copied"]) == 2
        assert state(host)["problem"] == ""
        assert "FAILED" not in next(line for line in host.engine("status").out.splitlines() if "off-site" in line)
        outputs = told.out + told.err + status + listed.out + scheduled.out + json.dumps(state(host))
        assert CANARY not in outputs


def test_a_place_that_lost_its_copies_is_not_begun_anew(host: HostReleases, sftp: Place) -> None:
    with configured(host, sftp):
        backed_up(host, "--level", "checksum")
        assert sftp.folder is not None
        shutil.rmtree(sftp.folder / "kit")
        told = host.engine("copy-offsite", "--json")
        assert told.code == 1
        assert "does not open any more" in told.json["problem"]
        assert not (sftp.folder / "kit").exists()
        assert offsite_place.RECORD in told.json["next"]
        (host.root / offsite_place.RECORD).unlink()
        assert host.engine("copy-offsite", "--json").json["changed"]


def test_another_password_is_told_and_begins_nothing(host: HostReleases, sftp: Place) -> None:
    with configured(host, sftp):
        backed_up(host, "--level", "checksum")
    other = Place(**{**sftp.__dict__, "environment": {"RESTIC_PASSWORD": f"{CANARY}-other"}})
    with configured(host, other):
        told = host.engine("copy-offsite", "--json")
        assert told.code == 1
        assert "wrong password" in told.json["problem"]
        assert CANARY not in told.out + told.err
    (host.root / offsite_place.RECORD).unlink()
    with configured(host, other):
        again = host.engine("copy-offsite", "--json")
        assert "wrong password" in again.json["problem"]
    with configured(host, Place(**{**sftp.__dict__, "environment": {}})):
        assert "has no RESTIC_PASSWORD" in host.engine("copy-offsite", "--json").json["problem"]


def test_a_drill_reads_the_place_part_by_part_and_finds_damage(host: HostReleases, sftp: Place) -> None:
    assert sftp.folder is not None
    with configured(host, sftp, offsite_check_parts=2):
        backed_up(host, "--level", "checksum")
        for part in (1, 2, 1):
            good = host.engine("scheduled", "drill", "--json")
            assert good.code == 0, good.err
            assert (state(host)["part"], state(host)["check_problem"]) == (part, "")
        packs = [path for path in (sftp.folder / "kit/data").rglob("*") if path.is_file()]
        largest = max(packs, key=lambda path: path.stat().st_size)
        largest.chmod(0o600)
        flip(largest)
        # It lies in one of both parts.
        drills = (host.engine("scheduled", "drill", "--json") for _ in range(2))
        bad = next(told for told in drills if told.code)
        assert bad.json["code"] == "offsite"
        assert state(host)["check_problem"]
        # The next one does not read past it.
        again = host.engine("scheduled", "drill", "--json")
        assert again.json["code"] == "offsite"
        assert state(host)["check_problem"]
        assert "its check FAILED" in host.engine("status").out


def test_another_hosts_copy_of_that_id_is_not_taken_for_ours(host: HostReleases, sftp: Place, tmp_path: Path) -> None:
    """Each host of an environment may have a database of its own, and back it up in the same second."""
    fill(host, 6)
    given = backed_up(host, "--level", "checksum")
    later = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-zz"
    theirs = tmp_path / "theirs/backup"
    theirs.mkdir(parents=True)
    env = {**os.environ, **sftp.environment, "RESTIC_REPOSITORY": sftp.repository}
    for words in (
        ["init"],
        ["backup", "--host", "other", "--tag", f"project:{host.project},env:prod,id:{given}", "backup"],
        ["backup", "--host", "other", "--tag", f"project:{host.project},env:prod,id:{later}", "backup"],
    ):
        subprocess.run(["restic", *words], cwd=theirs.parent, env=env, check=True, capture_output=True)
    with configured(host, sftp):
        assert host.engine("copy-offsite", "--json").json["copied"] == [given]
        shutil.rmtree(host.root / FOLDER)
        fill(host, 2)
        assert f"{later}, off-site only, made on host other\n" in host.engine("backups").out
        done = host.engine("restore", "latest", "--confirm", "prod", "--json")
        assert done.code == 0, done.out
        assert sql(host, "SELECT count(*) FROM kit_rows") == "6"


def test_a_copy_that_lacks_a_file_is_made_again(host: HostReleases, sftp: Place) -> None:
    """restic leaves its snapshot there when it could not read a file, and ends with 3."""
    program = Path(sftp.programs) / "restic"
    real = program.resolve()
    program.unlink()
    program.write_text(f'#!/bin/sh\n"{real}" "$@" || exit $?\ncase "$*" in *" backup "*) exit 3;; esac\n')
    program.chmod(0o755)
    with configured(host, sftp):
        told = host.engine("backup", "--level", "checksum", "--json")
        assert told.json["code"] == "offsite"
        newest = backup.newest(host.root)
        assert newest is not None
        assert state(host)["again"] == [newest["id"]]
        program.unlink()
        program.symlink_to(real)
        assert host.engine("copy-offsite", "--json").json["copied"] == [newest["id"]]
        assert state(host)["again"] == []
        assert host.engine("copy-offsite", "--json").json["copied"] == []


def test_a_backup_that_is_damaged_here_is_not_copied_and_a_bad_copy_not_restored(
    host: HostReleases, sftp: Place
) -> None:
    fill(host, 5)
    with configured(host, sftp):
        given = backed_up(host, "--level", "checksum")
        later = backed_up(host, "--level", "checksum")
        flip(folder_of(host, later) / DUMP)
        bad = host.engine("verify-backup", later, "--level", "checksum", "--json")
        assert bad.code == 1
        # Its copy was made before, and is whole.
        subprocess.run(bad.json["next"].removeprefix("sudo ").partition("    (")[0].split(), check=True)
        assert host.engine("verify-backup", later, "--level", "checksum").code == 0
        flip(folder_of(host, later) / DUMP)
        assert "choose another" in host.engine("verify-backup", later, "--level", "checksum", "--json").json["next"]
        (host.root / offsite_place.RECORD).unlink()
        shutil.rmtree(sftp.folder / "kit") if sftp.folder else None
        assert host.engine("copy-offsite", "--json").json["copied"] == [given]
        # What restic gives back as it got it may have been bad before: it is found before anything is changed.
        flip(folder_of(host, given) / DUMP)
        (host.root / offsite_place.RECORD).unlink()
        shutil.rmtree(sftp.folder / "kit") if sftp.folder else None
        assert host.engine("copy-offsite", "--json").json["copied"] == [given]
        shutil.rmtree(host.root / FOLDER)
        fill(host, 9)
        refused = host.engine("restore", given, "--confirm", "prod", "--json")
        assert refused.code == 1
        assert "is not what was written" in refused.json["problem"]
        assert sql(host, "SELECT count(*) FROM kit_rows") == "9"


def test_a_copy_that_is_cut_off_is_no_copy_and_the_next_makes_it(host: HostReleases, sftp: Place) -> None:
    with configured(host, sftp):
        backed_up(host, "--level", "checksum")
        assert sftp.folder is not None
        sftp.gone.touch()
        given = json.loads(host.engine("backup", "--level", "checksum", "--json").out.splitlines()[-1])
        assert given["code"] == "offsite"
        sftp.gone.unlink()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with host.started("copy-offsite", "--json") as running:
                end = time.monotonic() + 30
                while not (host.root / FOLDER / offsite_place.COPYING).exists():
                    assert time.monotonic() < end
                    assert running.poll() is None
                    time.sleep(0.01)
                running.send_signal(number)
                running.communicate(timeout=60)
        done = host.engine("copy-offsite", "--json")
        assert done.code == 0, done.out
        newest = backup.newest(host.root)
        assert newest is not None
        told = host.engine("backups", "--json").json
        assert all(one["where"] == ["host", "off-site"] for one in told["backups"])
        assert not (host.root / FOLDER / offsite_place.COPYING).exists()


def test_what_has_come_of_a_fetch_that_was_cut_off_stays_and_is_made_whole(host: HostReleases, sftp: Place) -> None:
    fill(host, 30_000)
    with configured(host, sftp):
        others, given = (backed_up(host, "--level", "checksum") for _ in range(2))
        before = files(folder_of(host, given))
        shutil.rmtree(host.root / FOLDER)
        fill(host, 3)

        def cut_off(wanted: str) -> Path:
            """Kill one once its dump comes."""
            come = host.root / FOLDER / f".fetched-{wanted}/{offsite_place.TOP}/{DUMP}"
            with host.started("restore", wanted, "--confirm", "prod", "--json", "--wait", "60") as running:
                end = time.monotonic() + 30
                while not come.exists():
                    assert time.monotonic() < end
                    assert running.poll() is None
                    time.sleep(0.001)
                os.killpg(running.pid, signal.SIGKILL)
                running.communicate(timeout=60)
            return come

        left = cut_off(others)
        assert host.engine("prune-backups", "--json", "--wait", "60").code == 0
        assert not left.exists()
        left = cut_off(others)
        assert left.exists()
        left = cut_off(given)
        assert names(host) == {f".fetched-{given}"}
        # Neither a refusal nor another command's backup removes it.
        sftp.gone.touch()
        assert host.engine("restore", given, "--confirm", "prod", "--json", "--wait", "60").code == 1
        sftp.gone.unlink()
        backed_up(host, "--level", "checksum")
        left.write_bytes(b"half of it, and not what it was")
        done = host.engine("restore", given, "--confirm", "prod", "--json")
        assert done.code == 0, done.out + done.err
        assert files(folder_of(host, given)) == before
        assert sql(host, "SELECT count(*) FROM kit_rows") == "30000"
        assert [name for name in names(host) if name.startswith(".")] == []


def test_a_disk_that_a_fetch_has_filled_is_freed(host: HostReleases, sftp: Place) -> None:
    with small_disk(host, 12), configured(host, sftp):
        fill(host, 60)
        given = backed_up(host, "--level", "checksum")
        told = manifest_of(host, given)
        size = sum(one["bytes"] for one in told["files"].values()) + told["media"]["bytes"]
        shutil.rmtree(folder_of(host, given))
        fill(host, 5)
        # As much as is asked for beforehand, and some KiB less than the files take: a block each.
        leave_room(host, -(-(size + 1) // 4096) * 4096)
        failed = host.engine("restore", given, "--confirm", "prod", "--json")
        assert failed.code == 1
        assert "no space left on device" in failed.json["problem"]
        assert names(host) == {FILLER}
        (host.root / FOLDER / FILLER).unlink()
        assert host.ask("/rows") == "5"
        assert host.engine("restore", given, "--confirm", "prod", "--json").code == 0
        assert host.ask("/rows") == "60"


def test_a_host_without_restic_is_refused_before_a_deploy(host: HostReleases, monkeypatch: pytest.MonkeyPatch) -> None:
    told = json.loads(((host.root / "current").resolve() / "stack.json").read_text())
    told["backup"]["offsite_repository"] = "sftp:kit@other:/srv/copies"
    programs = host.scratch / "programs"
    programs.mkdir()
    (programs / "docker").symlink_to(str(shutil.which("docker")))
    monkeypatch.setenv("PATH", str(programs))
    answer = host.engine("preflight", "--json", "--request", json.dumps({"stack": told}))
    assert answer.code == 1
    assert [one["code"] for one in answer.json["problems"]] == ["offsite"]
    told["backup"]["offsite_repository"] = ""
    assert host.engine("preflight", "--json", "--request", json.dumps({"stack": told})).code == 0


def test_a_copy_keeps_no_release_waiting(host: HostReleases, sftp: Place) -> None:
    """The host's lock is free while a copy waits for a slow place."""
    with configured(host, sftp):
        backed_up(host, "--level", "checksum")
        (sftp.log.parent / "programs/ssh").write_text("#!/bin/sh\nsleep 20\nexit 255\n")
        with host.started("copy-offsite", "--json") as running:
            time.sleep(1)
            told = host.engine("prune-backups", "--json")
            assert told.code == 0, told.err
            assert running.poll() is None
            os.killpg(running.pid, signal.SIGTERM)
            running.communicate(timeout=60)
