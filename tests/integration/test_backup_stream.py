"""Backups that keep no dump on the host: by the real restic over SFTP, from a real PostgreSQL and a real volume."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kit_engine import backup, backup_stream, media_writer, offsite_place, stack, verification
from kit_engine.backup import FOLDER, MANIFEST
from kit_engine.verification import CONFIGURATION, DUMP, ROLES
from support import offsite
from support.backups import (
    backed_up,
    databases,
    fill,
    flip,
    folder_of,
    manifest_of,
    media,
    media_file,
    media_files,
    names,
    sql,
)
from support.engine_stack import docker
from support.host_releases import HostReleases
from support.offsite import CANARY, Place, configured

pytestmark = [pytest.mark.engine, pytest.mark.slow]

ROWS = "SELECT count(*), md5(string_agg(text, ',' ORDER BY id)) FROM kit_rows"
# More than all pipes on the way take, so that pg_dump waits where restic is halted.
MANY = 400_000
# A lock's name.
LOCK_LENGTH = 64


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: HostReleases) -> Iterator[Place]:
    """A place by SFTP that the release streams to, and nothing of another test's backups."""
    shutil.rmtree(host.root / FOLDER, ignore_errors=True)
    for record in (offsite_place.RECORD, backup_stream.LEAVING):
        (host.root / record).unlink(missing_ok=True)
    made = offsite.by_sftp(tmp_path)
    monkeypatch.setenv("PATH", f"{made.programs}:{os.environ['PATH']}")
    with configured(host, made, local_copy=False):
        yield made


def restic(place: Place, *words: str) -> str:
    """Call restic as somebody at the other end would."""
    env = {**os.environ, **place.environment, "RESTIC_REPOSITORY": str(place.folder) + "/kit"}
    return subprocess.run(["restic", *words], env=env, check=True, capture_output=True, text=True, timeout=60).stdout


def snapshots(place: Place) -> list[str]:
    """What each snapshot there is of, without marks, sorted."""
    told = json.loads(restic(place, "snapshots", "--no-lock", "--json"))
    return sorted(tag for one in told for tag in one["tags"] if tag.partition(":")[0] in offsite_place.PARTS)


def of(given: str) -> list[str]:
    """The snapshots of one backup."""
    return [f"dump:{given}", f"id:{given}", f"media:{given}"]


def wrapped(place: Place, script: str) -> Callable[[], None]:
    """Have restic be a shell script, in which $real is restic; gives what undoes that."""
    program = Path(place.programs) / "restic"
    real = program.resolve()
    program.unlink()
    program.write_text(f'#!/bin/sh\nreal="{real}"\n{script}\nexec "$real" "$@"\n')
    program.chmod(0o755)

    def undo() -> None:
        program.unlink()
        program.symlink_to(real)

    return undo


def known(host: HostReleases) -> list[str]:
    """Ids of all backups that count, wherever they lie."""
    told = host.engine("backups", "--json").json
    assert not told["offsite_problem"]
    return sorted([*(one["id"] for one in told["backups"]), *told["offsite_only"]])


def test_a_backup_goes_off_site_is_verified_and_comes_back_without_a_dump_here(
    host: HostReleases, place: Place
) -> None:
    fill(host, MANY)
    media(host, "sh", "-c", "rm -rf ./*; mkdir -p deep/er; ln -s deep link; head -c 3000000 /dev/urandom >deep/big")
    media_file(host, "deep/er/one.txt", f"{CANARY}-content")
    # Fractions of a second do not come back.
    media(host, "sh", "-c", "chmod 640 deep/big; find . -mindepth 1 -exec touch -h -d 2020-01-02T03:04:05 {} +")
    look = f"find . -name {media_writer.KEPT} -prune -o -mindepth 1 -type l -printf '%p %l %U %G\\n' "
    look += "-o -mindepth 1 -printf '%p %y %m %U %G %T@\\n' | sort; "
    look += "cat deep/er/one.txt; sha256sum deep/big"
    rows, files = sql(host, ROWS), media(host, "sh", "-c", look)
    given = backed_up(host, "--level", "restore")
    folder = folder_of(host, given)
    assert {path.name for path in folder.iterdir()} == {MANIFEST, ROLES, CONFIGURATION}
    told = manifest_of(host, given)
    assert told["bytes"] > 15_000_000
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 200_000
    assert names(host) == {given}
    assert snapshots(place) == of(given)
    stored = b"".join(path.read_bytes() for path in (place.folder or folder).rglob("*") if path.is_file())
    assert CANARY.encode() not in stored
    assert host.engine("backups", "--json").json["backups"][0]["where"] == ["off-site"]
    assert "dump off-site" in next(line for line in host.engine("status").out.splitlines() if "  backup " in line)
    assert host.engine("copy-offsite", "--json").json["copied"] == []
    for level in verification.LEVELS:
        verified = host.engine("verify-backup", given, "--level", level, "--json")
        assert verified.code == 0, verified.out + verified.err
        assert verified.json["level"] == level
    drill = host.engine("scheduled", "drill", "--json")
    assert drill.code == 0, drill.out + drill.err

    # A host that has nothing of it any more, other rows, and other media files.
    shutil.rmtree(host.root / FOLDER)
    fill(host, 3)
    media(host, "sh", "-c", "rm -rf deep; echo other >other.txt")
    done = host.engine("restore", "latest", "--confirm", "prod", "--json")
    assert done.code == 0, done.out + done.err
    assert done.json["backup"] == given
    assert sql(host, ROWS) == rows
    assert media(host, "sh", "-c", look) == files
    assert not (folder_of(host, given) / DUMP).exists()
    # The backup of what was there before it went the same way.
    assert sorted(of(given) + of(done.json["safety"])) == snapshots(place)
    assert sum(path.stat().st_size for path in (host.root / FOLDER).rglob("*")) < 400_000


@pytest.mark.parametrize("victim", ["pg_dump", "restic", "engine", "engine at once"])
def test_what_is_killed_midway_leaves_no_backup(host: HostReleases, place: Place, victim: str) -> None:
    fill(host, MANY)
    before = backed_up(host, "--level", "checksum")
    running = host.started("backup", "--json", "--level", "checksum")
    receiving = _halted(host, running)
    if victim == "pg_dump":
        rows = docker("top", host.containers()["db"][0], "-eo", "pid,args").splitlines()
        (found,) = [int(row.split()[0]) for row in rows if row.split(maxsplit=1)[1].startswith("pg_dump --format")]
        os.kill(found, signal.SIGKILL)
    elif victim == "restic":
        os.kill(receiving, signal.SIGKILL)
    else:
        os.kill(running.pid, signal.SIGTERM if victim == "engine" else signal.SIGKILL)
    if victim != "restic":
        time.sleep(0.5)
        try:
            os.kill(receiving, signal.SIGCONT)
        except ProcessLookupError:
            assert victim == "engine"
    out, err = running.communicate(timeout=60)
    assert running.returncode != 0, err
    if victim in ("pg_dump", "restic"):
        told = json.loads(out.splitlines()[-1])
        assert told["code"] == ("backup" if victim == "pg_dump" else "offsite")
        assert "Nothing was changed." in told["problem"]
    if victim == "engine at once":
        # What reads takes that for the end; nothing says that it is a backup.
        end = time.monotonic() + 60
        while len(snapshots(place)) == 3:
            assert time.monotonic() < end
            time.sleep(0.2)
    else:
        assert snapshots(place) == of(before)
        assert names(host) == {before}
    assert known(host) == [before]
    later = backed_up(host, "--level", "checksum")
    assert snapshots(place) == sorted(of(before) + of(later))
    assert names(host) == {before, later}


@pytest.mark.parametrize("part", ["dump", "media"])
def test_what_another_machine_of_this_name_forgets_makes_no_backup(host: HostReleases, place: Place, part: str) -> None:
    fill(host, 20)
    before = backed_up(host, "--level", "checksum")
    # As by a clone: before the folder is sent, and then no more.
    lost = f'given=${{*##* id:}}; "$real" forget --tag "{part}:${{given%% *}}" --keep-tag none >&2'
    undo = wrapped(place, f'case "$*" in *" backup "*" id:"*) {lost};; esac')
    told = host.engine("backup", "--json", "--level", "checksum")
    undo()
    assert (told.code, told.json["code"]) == (1, "offsite")
    assert "was removed off-site while the backup was made" in told.json["problem"]
    assert names(host) == {before}
    assert known(host) == [before]
    # What a clone is sending now looks like what a run of this host has left.
    marks = ["--host", platform.node(), *offsite_place.marks(stack.load(host.root)), "--tag", "dump:another"]
    restic(place, "backup", *marks, str(folder_of(host, before)))
    later = backed_up(host, "--level", "checksum")
    assert snapshots(place) == sorted([*of(before), "dump:another", *of(later)])


def test_a_backup_that_is_killed_when_its_folder_was_sent_goes_with_the_next(host: HostReleases, place: Place) -> None:
    fill(host, 20)
    before = backed_up(host, "--level", "checksum")
    undo = wrapped(place, 'case "$*" in *" backup "*" id:"*) "$real" "$@"; kill -9 $PPID; exit 0;; esac')
    assert host.engine("backup", "--json", "--level", "checksum").code < 0
    undo()
    assert len(snapshots(place)) == 6
    later = backed_up(host, "--level", "checksum")
    assert names(host) == {before, later}
    assert snapshots(place) == sorted(of(before) + of(later))
    assert known(host) == sorted([before, later])


def test_a_place_that_another_host_has_locked_is_waited_for(host: HostReleases, place: Place) -> None:
    fill(host, 20)
    backed_up(host, "--level", "checksum")
    pruning = _locking(place)
    running = host.started("backup", "--json", "--level", "checksum")
    said: list[bytes] = []
    try:
        assert running.stderr
        while running.poll() is None and not (said and b"locked by another run" in said[-1]):
            said.append(running.stderr.readline())
        assert running.poll() is None, said
    finally:
        os.kill(pruning.pid, signal.SIGCONT)
        pruning.communicate(timeout=60)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    given = json.loads(out.splitlines()[-1])["backup"]["id"]
    assert set(of(given)) <= set(snapshots(place))


def _locking(place: Place) -> subprocess.Popen[bytes]:
    """Halt a prune while it has locked the place for itself."""
    env = {**os.environ, **place.environment, "RESTIC_REPOSITORY": str(place.folder) + "/kit"}
    locks = Path(env["RESTIC_REPOSITORY"]) / "locks"
    for _ in range(20):
        pruning = subprocess.Popen(["restic", "prune"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # One that is not written yet has another name.
        while pruning.poll() is None and not any(len(path.name) == LOCK_LENGTH for path in locks.iterdir()):
            time.sleep(0.01)
        if pruning.poll() is None:
            os.kill(pruning.pid, signal.SIGSTOP)
            if any(len(path.name) == LOCK_LENGTH for path in locks.iterdir()):
                return pruning
            os.kill(pruning.pid, signal.SIGCONT)
        pruning.wait(timeout=60)
    raise AssertionError("restic prune is too fast to be halted")


def _halted(host: HostReleases, running: subprocess.Popen[bytes]) -> int:
    """Halt the restic that receives the dump, midway; gives its number."""
    end = time.monotonic() + 60
    while running.poll() is None and time.monotonic() < end:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if Path(os.fsdecode(words[0])).name == "restic" and b"--stdin" in words and _is_ours(words, host):
                os.kill(int(path.parent.name), signal.SIGSTOP)
                # Until pg_dump waits for it.
                time.sleep(2)
                return int(path.parent.name)
    raise AssertionError(running.communicate(timeout=5))


def _is_ours(words: list[bytes], host: HostReleases) -> bool:
    return any(f"project:{host.project}".encode() in word for word in words)


def test_without_the_place_there_is_no_backup_and_no_release(host: HostReleases, place: Place) -> None:
    fill(host, 20)
    given = backed_up(host, "--level", "checksum")
    changed = {
        "backup_local_copy": False,
        "backup_offsite_repository": place.repository,
        "vault_backup_offsite": place.environment,
        "backup_level": "checksum",
    }
    version, serves = host.version("two", variables=changed), host.current
    place.gone.touch()
    told = host.engine("backup", "--json")
    assert told.code == 1
    assert told.json["code"] == "offsite"
    assert "without off-site there is no backup at all. Nothing was changed." in told.json["problem"]
    assert "make backup" in told.json["next"]
    assert "FAILED" in next(line for line in host.engine("status").out.splitlines() if line.startswith("  off-site "))
    deployed = host.deploy(version, backup=True)
    assert deployed.code == 1
    assert deployed.json["code"] == "offsite"
    assert "there is no backup at all" in deployed.json["problem"]
    assert (host.current, host.ask("/version"), sql(host, "SELECT count(*) FROM kit_rows")) == (serves, "one", "20")
    assert names(host) == {given}
    refused = host.engine("restore", given, "--confirm", "prod", "--json")
    assert (refused.code, refused.json["code"]) == (1, "offsite")
    assert sql(host, "SELECT count(*) FROM kit_rows") == "20"
    place.gone.unlink()
    done = host.deploy(version, backup=True)
    assert done.code == 0, done.out + done.err
    assert host.ask("/version") == "two"
    made = host.record(host.current)["backup"]["id"]
    assert snapshots(place) == sorted(of(given) + of(made))
    back = host.rollback()
    assert back.code == 0, back.out


def _resealed(host: HostReleases, given: str, sha256: str) -> None:
    """Have a backup's manifest say that its dump is another one, as if it had been written so."""
    path = folder_of(host, given) / MANIFEST
    told: dict[str, Any] = json.loads(path.read_text())
    told["files"][DUMP]["sha256"] = told["sha256"] = sha256
    path.write_text(json.dumps(verification.sealed(told)))


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("level", verification.LEVELS)
def test_another_dump_than_was_written_is_found_at_every_level(host: HostReleases, level: str) -> None:
    fill(host, 1000)
    given = backed_up(host, "--level", "checksum")
    fill(host, 7)
    good = (folder_of(host, given) / MANIFEST).read_text()
    _resealed(host, given, "0" * 64)
    told = host.engine("verify-backup", given, "--level", level, "--json")
    assert told.code == 1
    assert "off-site is not what was written" in told.json["problem"]
    assert "NOT GOOD" in host.engine("backups").out
    refused = host.engine("restore", given, "--confirm", "prod", "--json")
    assert refused.code == 1
    assert "off-site is not what was written" in refused.json["problem"]
    assert sql(host, "SELECT count(*) FROM kit_rows") == "7"
    assert "_new_" not in databases(host)
    # As it was it is good, and a flipped bit makes it none.
    (folder_of(host, given) / MANIFEST).write_text(good)
    assert host.engine("verify-backup", given, "--level", level, "--json").code == 0
    flip(folder_of(host, given) / MANIFEST)
    assert given not in [one["id"] for one in host.engine("backups", "--json").json["backups"]]


@pytest.mark.parametrize(
    ("script", "code", "problem"),
    [
        ('"$real" "$@" | head -c 300000; echo cut >&2; exit 1', "offsite", "cut"),
        ('"$real" "$@" | head -c 300000; exit 0', "backup", "pg_restore ended with"),
        ("exec sleep 0", "backup", ""),
    ],
)
def test_what_comes_back_cut_is_refused_and_the_database_serves_on(
    host: HostReleases, place: Place, script: str, code: str, problem: str
) -> None:
    fill(host, 50_000)
    given = backed_up(host, "--level", "checksum")
    fill(host, 11)
    undo = wrapped(place, f'case "$*" in *"dump --no-lock "*{DUMP}*) {script};; esac')
    for words in (
        ("restore", given, "--confirm", "prod"),
        *(("verify-backup", given, "--level", level) for level in ("read", "restore")),
    ):
        told = host.engine(*words, "--json")
        assert (told.code, told.json["code"]) == (1, code), told.out
        assert problem in told.json["problem"]
    assert host.engine("verify-backup", given, "--level", "checksum", "--json").code == 1
    assert sql(host, "SELECT count(*) FROM kit_rows") == "11"
    assert "_new_" not in databases(host)
    assert host.ask("/rows") == "11"
    undo()
    done = host.engine("restore", given, "--confirm", "prod", "--json")
    assert done.code == 0, done.out + done.err
    assert sql(host, "SELECT count(*) FROM kit_rows") == "50000"


def test_what_need_not_stay_goes_there_too_and_its_room_with_the_drill(host: HostReleases, place: Place) -> None:
    settings = (host.root / "current").resolve() / "stack.json"
    told = json.loads(settings.read_text())
    told["backup"]["keep_releases"] = 2
    settings.write_text(json.dumps(told))
    fill(host, 100)
    made = [backed_up(host, "--level", "checksum") for _ in range(3)]
    # Here at once, there with the next one, or by hand.
    assert known(host) == sorted(made)
    assert names(host) == set(made[1:])
    made.append(backed_up(host, "--level", "checksum"))
    assert snapshots(place) == sorted(one for given in made[1:] for one in of(given))
    pruned = host.engine("prune-backups", "--json")
    assert pruned.code == 0, pruned.err
    assert snapshots(place) == sorted(one for given in made[2:] for one in of(given))
    assert known(host) == sorted(made[2:])
    before = json.loads(restic(place, "stats", "--no-lock", "--json", "--mode", "raw-data"))["total_size"]
    assert json.loads((host.root / offsite_place.RECORD).read_text())["loose"]
    drill = host.engine("scheduled", "drill", "--json")
    assert drill.code == 0, drill.out + drill.err
    assert not json.loads((host.root / offsite_place.RECORD).read_text())["loose"]
    assert before <= sum(path.stat().st_size for path in (place.folder or host.root).rglob("*") if path.is_file())


@pytest.mark.parametrize("part", ["dump", "media"])
@pytest.mark.parametrize("finder", ["prune-backups", "scheduled drill", "restore"])
def test_a_backup_of_which_something_went_from_there_is_none(
    host: HostReleases, place: Place, part: str, finder: str
) -> None:
    fill(host, 5)
    given = backed_up(host, "--level", "checksum")
    restic(place, "forget", manifest_of(host, given)[f"{part}_snapshot"])
    told = host.engine("backups")
    assert "NOWHERE" in told.out
    by_id = [("restore", given, "--confirm", "prod"), ("verify-backup", given)]
    for words in (by_id[0] if finder == "restore" else tuple(finder.split()), *by_id):
        refused = host.engine(*words, "--json")
        assert (refused.code, refused.json["code"]) == (1, "offsite"), refused.out
        assert f"The {part} of backup {given} lies off-site no more" in refused.json["problem"]
        # Who has found it has noted it.
        assert backup.newest(host.root) is None
    assert "NOT GOOD" in host.engine("backups").out
    shutil.rmtree(host.root / FOLDER)
    assert known(host) == []


def test_only_what_changed_travels(host: HostReleases, place: Place) -> None:
    fill(host, MANY)

    def stored() -> int:
        return sum(path.stat().st_size for path in (place.folder or host.root).rglob("*") if path.is_file())

    backed_up(host, "--level", "checksum")
    first = stored()
    sql(host, "INSERT INTO kit_rows (text) VALUES ('one more')")
    assert manifest_of(host, backed_up(host, "--level", "checksum"))["compression"] == "none"
    assert stored() - first < first / 3


@pytest.mark.usefixtures("place")
def test_a_media_folder_that_was_empty_is_empty_again(host: HostReleases) -> None:
    media(host, "sh", "-c", "rm -rf ./* && mkdir .kit-restore && echo left >.kit-restore/left")
    given = backed_up(host, "--level", "checksum")
    assert manifest_of(host, given)["media"]["files"] == 0
    media_file(host, "later.txt", "later")
    done = host.engine("restore", given, "--confirm", "prod", "--json")
    assert done.code == 0, done.out + done.err
    assert media_files(host) == set()


@pytest.mark.usefixtures("place")
def test_media_files_in_no_plain_folder_are_refused(host: HostReleases) -> None:
    volume = f"{host.project}_share"
    docker("volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", volume)
    settings = (host.root / "current").resolve() / "stack.json"
    told = json.loads(settings.read_text())
    told["app_files"]["media_volume"] = volume
    settings.write_text(json.dumps(told))
    try:
        refused = host.engine("backup", "--json")
    finally:
        docker("volume", "rm", volume)
    assert (refused.code, refused.json["code"]) == (1, "backup")
    assert "is no plain folder of this host" in refused.json["problem"]
    assert backup.newest(host.root) is None
