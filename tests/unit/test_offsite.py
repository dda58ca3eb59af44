"""Parts of the copies off-site that need neither an engine nor a place."""

from __future__ import annotations

import json
import os
import platform
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from kit_engine import (
    backup_offsite,
    backup_stream,
    command,
    dump_feed,
    masking,
    media_away,
    memory_files,
    offsite_place,
    restic,
    stack,
    verification,
)
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.offsite_place import Snapshot, State
from kit_engine.report import Report
from kit_engine.stack import OFFSITE_SECRETS, Stack
from support.kit import ROOT
from testbed.hosts import free_ports

CANARY = "canary-5tR1unit"


def host(root: Path, place: str) -> Stack:
    """A stack whose release copies to a place."""
    (root / "records").mkdir()
    bundle = root / "releases/one"
    (bundle / "secrets").mkdir(parents=True)
    told = {"environment": {"RESTIC_PASSWORD": CANARY}, "ssh_key": f"-----\n{CANARY}key\n-----", "known_hosts": "a b c"}
    (bundle / "secrets" / OFFSITE_SECRETS).write_text(json.dumps(told))
    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    made = stack.read(data, root, bundle)
    return replace(made, backup=replace(made.backup, offsite_repository=place))


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something of that name on PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "restic").write_text("#!/bin/sh\n")
    (folder / "restic").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("place", "last"),
    [
        ("sftp:kit@vault.test:/srv/copies", ["kit@vault.test", "-s", "sftp"]),
        ("sftp:vault.test:copies", ["vault.test", "-s", "sftp"]),
        ("sftp://kit@vault.test:2222//srv/copies", ["-p", "2222", "kit@vault.test", "-s", "sftp"]),
        ("sftp://vault.test//srv", ["vault.test", "-s", "sftp"]),
    ],
)
def test_a_place_by_sftp_is_reached_by_our_key_and_known_host_keys(tmp_path: Path, place: str, last: list[str]) -> None:
    with restic.opened(host(tmp_path, place)) as found:
        assert found.words[:2] == ("restic", "-o")
        words = shlex.split(found.words[2].partition("=")[2])
        assert words[-len(last) :] == last
        key = Path(words[words.index("-i") + 1])
        assert key.stat().st_mode & 0o777 == 0o600
        assert key.read_text().endswith("-----\n")
        assert "StrictHostKeyChecking=yes" in words
        assert CANARY not in " ".join(found.words)
        assert (found.env["RESTIC_REPOSITORY"], found.env["RESTIC_PASSWORD"]) == (place, CANARY)
    assert not key.parent.exists()


@pytest.mark.parametrize("files", [{}, {"ssh_key": "k", "known_hosts": "h"}], ids=["its own", "ours"])
def test_what_ssh_says_of_the_reason_is_told(tmp_path: Path, files: dict[str, str]) -> None:
    """Whatever restic heard of it: this one, like restic on a busy machine, ends without having read it."""
    (port,) = free_ports(1)
    one = host(tmp_path, f"sftp://kit@127.0.0.1:{port}//srv/copies")
    told = {"environment": {"RESTIC_PASSWORD": CANARY}, **files}
    (one.bundle / "secrets" / OFFSITE_SECRETS).write_text(json.dumps(told))
    (tmp_path / "programs/restic").write_text(
        """#!/bin/sh
eval "${2#sftp.command=} 2>/dev/null"
echo 'Fatal: unable to start the sftp session, error: EOF' >&2
exit 1
"""
    )
    with restic.opened(one) as place, pytest.raises(EngineError) as refused:
        place.demand("cat", "config")
    assert "error: EOF" in refused.value.problem
    assert f"port {port}: Connection refused" in refused.value.problem


def test_other_places_need_no_ssh(tmp_path: Path) -> None:
    with restic.opened(host(tmp_path, "s3:https://s3.test/bucket")) as found:
        assert found.words == ("restic",)


def test_a_folder_in_memory_of_a_run_that_was_killed_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory_files, "_FOLDERS", (str(tmp_path),))
    left, other = tmp_path / "kit-t-999999999-x", tmp_path / f"kit-t-{os.getpid()}-y"
    left.mkdir()
    other.mkdir()
    with memory_files.folder("kit-t-") as made:
        assert made.parent == tmp_path
        assert made.stat().st_mode & 0o777 == 0o700
        assert not left.exists()
    assert not made.exists()
    assert other.exists()


def test_what_programs_say_of_its_secrets_is_masked(tmp_path: Path) -> None:
    found = host(tmp_path, "s3:https://s3.test/bucket")
    mask = masking.of(Docker(found))
    assert CANARY not in mask(f"Fatal: {CANARY} and {CANARY}key")
    with restic.opened(found) as place:
        assert CANARY not in str(place.failure("backup", f"wrong {CANARY}"))


def test_a_host_without_restic_is_refused_where_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = host(tmp_path, "s3:https://s3.test/bucket")
    assert restic.lacking(found) is None
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    missing = restic.lacking(found)
    assert missing is not None
    assert "make provision ENV=prod" in missing.remedy
    with pytest.raises(EngineError, match="not installed"), restic.opened(found):
        pass
    assert restic.lacking(replace(found, backup=replace(found.backup, offsite_repository=""))) is None


def test_without_a_password_nothing_is_begun(tmp_path: Path) -> None:
    found = host(tmp_path, "s3:https://s3.test/bucket")
    secrets = found.bundle / "secrets" / OFFSITE_SECRETS
    for text in ('{"environment": {}}', "not json", "[]"):
        secrets.write_text(text)
        with pytest.raises(EngineError, match="RESTIC_PASSWORD"), restic.opened(found):
            pass
    secrets.unlink()
    with pytest.raises(EngineError, match="RESTIC_PASSWORD"), restic.opened(found):
        pass


@pytest.mark.parametrize(
    ("state", "words", "absent"),
    [
        (State(), "nothing was copied yet", "FAILED"),
        (State(good=1.0, ended=1.0), "last copy", "FAILED"),
        (State(good=1.0, ended=2.0, problem="no route\nmore"), "FAILED", "more"),
        (State(good=1.0, checked=2.0, check_problem="pack is damaged"), "its check FAILED", "read back"),
        (State(good=1.0, checked=2.0), "read back", "FAILED"),
    ],
)
def test_status_tells_in_a_line_how_copies_are(state: State, words: str, absent: str) -> None:
    line = backup_offsite.line(state.__dict__)
    assert words in line
    assert absent not in line


def test_a_record_of_another_version_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    found = host(tmp_path, "/mnt/copies")
    (found.root / offsite_place.RECORD).write_text('{"good": 5.0, "unknown": 1}')
    assert offsite_place.state(found) == State(good=5.0)
    (found.root / offsite_place.RECORD).write_text("damaged")
    assert offsite_place.state(found) == State()


def test_what_keeps_no_dump_here_wants_a_place(tmp_path: Path) -> None:
    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    for place, local_copy in (("", True), ("/mnt/copies", True), ("/mnt/copies", False)):
        data["backup"].update(offsite_repository=place, local_copy=local_copy)
        assert stack.read(data, tmp_path, tmp_path).backup.local_copy is local_copy
    for place, wrong in (("", False), ("/mnt/copies", "false"), ("/mnt/copies", 0)):
        data["backup"].update(offsite_repository=place, local_copy=wrong)
        with pytest.raises(EngineError, match=r"backup\.local_copy must be true, or false where offsite_repository"):
            stack.read(data, tmp_path, tmp_path)
    # A release of before it was written down.
    del data["backup"]["local_copy"]
    assert stack.read(data, tmp_path, tmp_path).backup.local_copy


def test_a_folder_whose_dump_or_media_files_went_from_there_is_no_backup() -> None:
    def one(part: str, given: str, host: str = "a", apart: Sequence[str] = ("dump", "media")) -> Snapshot:
        return Snapshot(f"{part}-{given}", part, given, host, frozenset(apart), 0.0)

    found = [one("id", "1"), one("dump", "1"), one("media", "1"), one("id", "2"), one("dump", "3")]
    found += [one("id", "4", apart=()), one("id", "3", "b"), one("media", "2")]
    found += [one("id", "5"), one("dump", "5"), one("id", "6", apart=["dump"]), one("dump", "6")]
    assert [each.id for each in offsite_place.whole(found)] == ["id-1", "id-4", "id-6"]


# Answers as restic does where that is asked for, and writes down what it is called with.
FAKE = """#!/bin/sh
echo "$@" >>"{folder}/called"
case "$*" in
*snapshots*) cat "{folder}/snapshots" ;;
*"cat config"*) echo '{{"version": 2}}' ;;
*"list locks"*) cat "{folder}/locks" ;;
*"cat lock "*) . "{folder}/lock" ;;
*"backup "*) . "{folder}/backup" ;;
*"check "* | prune) flock --nonblock "{folder}/../records/offsite.lock" echo "free in $1" >>"{folder}/called" ;;
esac
"""


class Fake:
    """A restic that says what it is told to.

    Args:
        folder: an empty one, for its files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("backup", "locks", "lock"):
            (folder / name).write_text("")
        (folder / "called").write_text("")
        self.holds()
        (folder / "restic").write_text(FAKE.format(folder=folder))
        (folder / "restic").chmod(0o755)

    def holds(self, *held: tuple[str, float]) -> None:
        """Have it hold snapshots of this host: of what, such as ``dump:1``, and how many seconds ago each was begun."""
        told = []
        for tag, age in held:
            # As restic writes it, in a zone of its own.
            begun = time.strftime("%Y-%m-%dT%H:%M:%S.123456789+02:00", time.gmtime(time.time() - age + 7200))
            told.append({"id": tag, "time": begun, "hostname": platform.node(), "tags": [tag]})
        (self.folder / "snapshots").write_text(json.dumps(told))

    def forgot(self) -> set[str]:
        """What it was told to forget."""
        lines = (self.folder / "called").read_text().splitlines()
        return {word for line in lines if line.startswith("forget ") for word in line.split()[1:]}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """It stands first on PATH."""
    folder = tmp_path / "fake"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return Fake(folder)


def streams_to(root: Path) -> tuple[Stack, Path]:
    """A stack that streams its backups, and the folder of them."""
    found = host(root, "s3:https://s3.test/bucket")
    folder = root / "shared/backups"
    folder.mkdir(parents=True)
    return found, folder


MANIFEST = {dump_feed.SNAPSHOT: "dump:9", media_away.SNAPSHOT: "media:9"}


@pytest.mark.parametrize("lost", ["dump:9", "media:9", ""])
def test_a_backup_whose_parts_went_meanwhile_is_none(tmp_path: Path, fake: Fake, lost: str) -> None:
    found, folder = streams_to(tmp_path)
    (folder / "new").mkdir()
    fake.holds(*[(one, 5.0) for one in ("dump:9", "media:9", "id:9") if one != lost])
    with restic.opened(found) as place:
        away = backup_stream.Away(
            Docker(found), place, Report("backup", as_json=True), "9", compresses=True, media_folder=None
        )
        if not lost:
            away.keep(folder / "new", MANIFEST)
            return
        with pytest.raises(EngineError, match=f"Snapshot {lost} was removed off-site while the backup was made"):
            away.keep(folder / "new", MANIFEST)
    assert offsite_place.state(found).good == 0.0


def test_what_another_machine_of_this_name_sends_is_left_alone(tmp_path: Path, fake: Fake) -> None:
    found, folder = streams_to(tmp_path)
    late = found.backup.timeout_seconds + 60.0
    young = found.backup.timeout_seconds - 60.0
    fake.holds(("dump:1", late), ("media:1", late), ("dump:2", young), ("media:3", 5.0), ("id:4", late))
    with restic.opened(found) as place:
        backup_stream.clear(place, Report("backup", as_json=True), folder)
    assert fake.forgot() == {"dump:1", "media:1"}


def run(found: Stack, folder: Path, given: str, steps: Sequence[str]) -> None:
    """A backup that is cut off after some of its steps."""
    with backup_stream.opened(Docker(found), Report("backup", as_json=True), given, folder) as away:
        (folder / ".new-1").mkdir()
        if "keep" in steps:
            away.keep(folder / ".new-1", {})
        if "rename" in steps:
            (folder / ".new-1").rename(folder / given)
        if "end" not in steps:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("steps", "stays"),
    [((), False), (("keep",), False), (("keep", "rename"), True), (("keep", "rename", "end"), True)],
)
def test_what_a_run_has_sent_goes_with_the_next_unless_its_folder_is_here(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, steps: Sequence[str], stays: bool
) -> None:
    monkeypatch.setattr(media_away, "folder_of", lambda _: None)
    found, folder = streams_to(tmp_path)
    if "end" in steps:
        run(found, folder, "7", steps)
        assert not (found.root / backup_stream.LEAVING).exists()
    else:
        with pytest.raises(KeyboardInterrupt):
            run(found, folder, "7", steps)
    fake.holds(("dump:7", 5.0), ("id:7", 5.0))
    with restic.opened(found) as place:
        backup_stream.clear(place, Report("backup", as_json=True), folder)
    assert fake.forgot() == (set() if stays else {"dump:7", "id:7"})
    assert not (found.root / backup_stream.LEAVING).exists()


LOCKED = "Fatal: unable to create lock in backend: repository is already locked exclusively by PID 7 on b by root"


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("said", [LOCKED, json.dumps({"message_type": "exit_error", "code": 11, "message": LOCKED})])
def test_a_place_that_another_host_locks_is_waited_for(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, ends: bool, said: str
) -> None:
    monkeypatch.setattr(restic, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(restic, "LOCK_SECONDS", 60.0 if ends else 0.0)
    found, folder = streams_to(tmp_path)
    (folder / "new").mkdir()
    # The first time it is locked; where that does not end, for ever.
    (fake.folder / "backup").write_text(
        f'[ -e "{fake.folder}/again" ] || {{ {"touch" if ends else ":"} "{fake.folder}/again"; '
        f"echo {shlex.quote(said)} >&2; exit 1; }}\n"
    )
    with restic.opened(found) as place:
        away = backup_stream.Away(
            Docker(found), place, Report("backup", as_json=True), "9", compresses=True, media_folder=None
        )
        if ends:
            away.keep(folder / "new", {})
            return
        with pytest.raises(EngineError, match="already locked"):
            away.keep(folder / "new", {})


@pytest.mark.parametrize(
    ("lock", "waits"),
    [
        ('echo \'{"exclusive": true, "pid": 7, "hostname": "b", "time": "now"}\'', True),
        ('echo \'{"exclusive": false, "pid": 7, "hostname": "b", "time": "now"}\'', False),
        # It went meanwhile.
        ("exit 1", False),
    ],
)
def test_what_is_streamed_begins_when_nobody_locks_the_place_for_itself(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, lock: str, waits: bool
) -> None:
    monkeypatch.setattr(media_away, "folder_of", lambda _: None)
    monkeypatch.setattr(restic, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(restic, "LOCK_SECONDS", 0.0)
    found, folder = streams_to(tmp_path)
    (fake.folder / "locks").write_text("abc\n")
    (fake.folder / "lock").write_text(lock)
    if waits:
        with pytest.raises(EngineError, match="locked exclusively by process 7 of host b since now"):
            run(found, folder, "7", ("keep", "rename", "end"))
        # Where the lock goes, it begins.
        monkeypatch.setattr(restic, "LOCK_SECONDS", 60.0)
        (fake.folder / "lock").write_text(f': >"{fake.folder}/locks"; {lock}')
    run(found, folder, "8", ("keep", "rename", "end"))
    assert (folder / "8").is_dir()


def test_a_check_keeps_no_backup_waiting(tmp_path: Path, fake: Fake) -> None:
    found, _ = streams_to(tmp_path)
    offsite_place.note(found, loose=True, part=2)
    backup_offsite.check(found, Report("drill", as_json=True))
    called = (fake.folder / "called").read_text().splitlines()
    # What removes data is alone, and comes before; here that is refused because of it.
    assert called == ["prune", "check --no-lock --read-data-subset=3/8", "free in check"]
    told = offsite_place.state(found)
    assert (told.loose, told.part, told.check_problem) == (True, 3, "")
    assert told.checked


def test_a_part_that_was_not_good_is_read_again_until_it_is(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = streams_to(tmp_path)
    found = replace(found, backup=replace(found.backup, offsite_check_parts=3))
    program = fake.folder / "restic"
    good, report = program.read_text(), Report("drill", as_json=True)
    backup_offsite.check(found, report)
    for said, wrong in (("pack 1f is damaged", "pack 1f"), ("connect: no route to host", "no route")):
        program.write_text(f"{good}echo {shlex.quote(said)} >&2\nexit 1\n")
        with pytest.raises(EngineError, match=wrong):
            backup_offsite.check(found, report)
        told = offsite_place.state(found)
        assert wrong in told.check_problem
        assert told.part == 1
    # One that was cut off has found nothing, and does not take back what was.
    with monkeypatch.context() as patched:
        patched.setattr(command, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            backup_offsite.check(found, report)
    assert "no route" in offsite_place.state(found).check_problem
    program.write_text(good)
    for _ in range(3):
        backup_offsite.check(found, report)
    assert (offsite_place.state(found).part, offsite_place.state(found).check_problem) == (1, "")
    called = (fake.folder / "called").read_text().splitlines()
    assert [line[-3:] for line in called if line.startswith("check ")] == ["1/3", "2/3", "2/3", "2/3", "3/3", "1/3"]


def interrupted(*_: object, **__: object) -> None:
    """Somebody ends it."""
    raise KeyboardInterrupt


def test_a_place_that_does_not_answer_in_time_is_named(tmp_path: Path, fake: Fake) -> None:
    found, _ = streams_to(tmp_path)
    (fake.folder / "restic").write_text("#!/bin/sh\nexec sleep 60\n")
    found = replace(found, backup=replace(found.backup, timeout_seconds=1))
    for limit, more in ((1, True), (0.5, False)):
        with restic.opened(found) as place, pytest.raises(EngineError) as refused:
            place.demand("check", limit=limit)
        assert refused.value.code == "offsite"
        assert "`restic check` failed" in refused.value.problem
        assert "s3:https://s3.test/bucket has not answered within" in refused.value.problem
        assert "reaches it" in refused.value.remedy
        assert ("backup_timeout_seconds in inventories/prod" in refused.value.remedy) is more


@pytest.mark.parametrize(("lost", "part"), [("dump:9", "dump"), ("media:9", "media"), ("", "")])
def test_what_went_from_there_is_damage_and_no_answer_is_none(tmp_path: Path, fake: Fake, lost: str, part: str) -> None:
    found, _ = streams_to(tmp_path)
    told = {"id": "9", **MANIFEST}
    fake.holds(*[(one, 5.0) for one in ("dump:9", "media:9") if one != lost])
    if lost:
        with pytest.raises(verification.DamagedError, match=f"The {part} of backup 9 lies off-site no more"):
            media_away.demand_there(Docker(found), told)
    else:
        media_away.demand_there(Docker(found), told)
    (fake.folder / "snapshots").unlink()
    with pytest.raises(EngineError) as refused:
        media_away.demand_there(Docker(found), told)
    assert not isinstance(refused.value, verification.DamagedError)
