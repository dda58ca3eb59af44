"""Parts of the copies off-site that need neither an engine nor a place."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from kit_engine import backup_offsite, masking, memory_files, offsite_place, restic, stack
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.offsite_place import Snapshot, State
from kit_engine.stack import OFFSITE_SECRETS, Stack
from support.kit import ROOT

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


def test_a_folder_whose_dump_went_from_there_is_no_backup() -> None:
    def one(part: str, given: str, host: str = "a", *, streamed: bool = True) -> Snapshot:
        return Snapshot(f"{part}-{given}", part, given, host, streamed)

    found = [one("id", "1"), one("dump", "1"), one("media", "1"), one("id", "2"), one("dump", "3")]
    found += [one("id", "4", streamed=False), one("id", "3", "b"), one("media", "2")]
    assert [each.id for each in offsite_place.whole(found)] == ["id-1", "id-4"]
