"""What is noted of a backup later: its own faults, and when it was last restored; nothing that others did."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from kit_engine import backup, backup_notes, command, dump_feed, parallel, stack, status, verification
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from support.kit import ROOT

ID = "20260101T000000Z-a"
MADE = 1_767_225_600.0
TOLD: dict[str, Any] = {
    "id": ID, "schema": 2, "bytes": 1, "level": "read", "made": MADE, "rows": {"public.a": 2}, "files": {},
}  # fmt: skip
SERVER = Container("id", "db-1", "db", "image", "image", "running", 0, "", "", 0)
REFUSED = 'pg_restore: error: COPY failed for table "a": ERROR:  relation "b" does not exist'


def docker(root: Path) -> Docker:
    """A stack whose deploy root is a folder."""
    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    return Docker(stack.read(data, root, root / "releases/one"))


def kept(root: Path, **changed: Any) -> dict[str, Any]:
    """Have a backup on the host; gives it as it is listed."""
    folder = root / backup.FOLDER / ID
    folder.mkdir(parents=True, exist_ok=True)
    (folder / backup.MANIFEST).write_text(json.dumps(verification.sealed({**TOLD, **changed})))
    return backup.listed(root)[0]


class Trial:
    """A server to restore into."""

    name, user, database, image, jobs = "trial", "user", "postgres", "image", 1

    def demand_ready(self) -> None:
        """It is."""


def judge(
    root: Path, monkeypatch: pytest.MonkeyPatch, fed: tuple[int, str], *, answers: object = 0, rows: int = 2,
    wanted: type[EngineError] = EngineError, read: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Give what is known of a backup after it was restored, or read, with such an end."""
    found, told = docker(root), kept(root)
    folder = root / backup.FOLDER / ID

    def run(*_: Any, **__: Any) -> command.Done:
        if isinstance(answers, EngineError):
            raise answers
        return command.Done(int(str(answers)), "", "")

    ended = dump_feed.Fed(*fed, damaged=False, _head=None, _path=folder / verification.DUMP)
    monkeypatch.setattr(parallel, "load", lambda *_, **__: ended)
    monkeypatch.setattr(dump_feed, "into", lambda *_, **__: ended)
    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr(verification, "counted", lambda *_: {"public.a": rows})
    trial: Any = None if read else Trial()
    with pytest.raises(wanted), backup_notes.judged(folder, told):
        verification.reach(found, None, SERVER, folder, told, trial)
    return backup.listed(root)[0]


def test_a_dump_that_a_well_server_refuses_is_no_good_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = judge(tmp_path, monkeypatch, (1, REFUSED), wanted=verification.DamagedError)
    assert told["problem"] == "The backup does not restore; pg_restore ended with 1"
    assert backup.newest(tmp_path) is None
    # Until it is shown to be good.
    backup_notes.good(tmp_path / backup.FOLDER / ID, told, "read")
    assert backup.newest(tmp_path) is not None


def test_other_rows_are_the_backups_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = judge(tmp_path, monkeypatch, (0, ""), rows=1, wanted=verification.DamagedError)
    assert told["problem"] == "The restored backup has other rows than the database had, in 1 tables"


def test_a_dump_that_cannot_be_read_is_no_good_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "pg_restore: error: could not read from input file: end of file"
    told = judge(tmp_path, monkeypatch, (1, said), read=True, wanted=verification.DamagedError)
    assert told["problem"].startswith("The backup cannot be read back")


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (137, ""),
        (137, "pg_restore: reading"),
        (1, "Error response from daemon: container db-1 is not running"),
        (1, 'pg_restore: error: ERROR:  could not extend file "base/5/1": No space left on device'),
        (1, "pg_restore: error: ERROR:  out of memory"),
        (1, "pg_restore: error: ERROR:  out of shared memory"),
        (1, "pg_restore: error: could not execute query: server closed the connection unexpectedly"),
        (1, "pg_restore: error: a worker process died unexpectedly"),
        (1, "pg_restore: error: FATAL:  terminating connection due to administrator command"),
    ],
)
def test_what_others_did_is_not_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: str, read: bool
) -> None:
    assert not judge(tmp_path, monkeypatch, (code, said), read=read)["problem"]
    assert not (tmp_path / backup.FOLDER / ID / backup_notes.FILE).exists()


@pytest.mark.parametrize("answers", [1, 137, EngineError("timeout", "It does not answer.", "")])
def test_a_server_that_is_gone_afterwards_is_to_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: object
) -> None:
    assert not judge(tmp_path, monkeypatch, (1, REFUSED), answers=answers)["problem"]


def test_a_server_that_never_started_is_to_blame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_ready(_: Trial) -> None:
        raise EngineError("backup", "It did not start.", "")

    monkeypatch.setattr(Trial, "demand_ready", not_ready)
    assert not judge(tmp_path, monkeypatch, (1, REFUSED))["problem"]


def test_only_a_restore_makes_the_last_restore_newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, found = tmp_path / backup.FOLDER / ID, docker(tmp_path).stack
    assert kept(tmp_path)["restored"] == 0
    assert status.last_restored(found) is None
    told = kept(tmp_path, level="restore")
    assert told["restored"] == MADE
    for days, level, since in ((3, "checksum", 3), (4, "restore", 0), (6, "read", 2), (7, "checksum", 3)):
        monkeypatch.setattr(time, "time", lambda days=days: MADE + days * 86_400)
        backup_notes.good(folder, backup.listed(tmp_path)[0], level)
        restored = status.last_restored(found)
        assert restored is not None
        assert restored["since"] == since * 86_400
        assert backup.listed(tmp_path)[0]["level"] == "restore"
    # One that is found to be bad is no backup that was restored; when it was last is kept for when it is good again.
    with pytest.raises(verification.DamagedError), backup_notes.judged(folder, backup.listed(tmp_path)[0]):
        raise verification.DamagedError("backup", "It is cut off.", "")
    assert status.last_restored(found) is None
    assert backup.listed(tmp_path)[0]["restored"] == MADE + 4 * 86_400


@pytest.mark.parametrize(("level", "restored"), [("restore", 7.0), ("read", 0.0)])
def test_a_note_of_an_earlier_kit_is_read(tmp_path: Path, level: str, restored: float) -> None:
    kept(tmp_path)
    note = {"level": level, "verified": 7.0, "problem": ""}
    (tmp_path / backup.FOLDER / ID / backup_notes.FILE).write_text(json.dumps(note))
    told = backup.listed(tmp_path)[0]
    assert (told["level"], told["verified"], told["restored"]) == (level, 7.0, restored)


def test_nothing_is_noted_of_a_backup_that_does_not_lie_here(tmp_path: Path) -> None:
    with pytest.raises(verification.DamagedError), backup_notes.judged(tmp_path / "none", TOLD):
        raise verification.DamagedError("backup", "It is gone.", "")
    assert not (tmp_path / "none").exists()
