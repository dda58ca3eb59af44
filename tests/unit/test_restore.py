"""What a restore that fails leaves noted, without an engine."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from kit_engine import (
    backup,
    backup_offsite,
    backup_room,
    command,
    database,
    disk,
    external,
    one_off,
    pending,
    recovery,
    restore,
    restore_database,
    restore_media,
    stack,
    throw_away,
    verification,
)
from kit_engine.beside import Ending
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.image_migrations import Migration
from kit_engine.report import Report
from kit_engine.restore import Differs
from support.kit import ROOT


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    """A stack's containers, none of which is asked for."""
    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    (tmp_path / "records").mkdir()
    return Docker(stack.read(data, tmp_path, tmp_path / "releases/one"))


@pytest.mark.parametrize("settles", [True, False])
def test_media_files_that_could_not_be_settled_are_the_next_runs(
    tmp_path: Path, docker: Docker, monkeypatch: pytest.MonkeyPatch, settles: bool
) -> None:
    def failing(*_: object) -> None:
        raise EngineError("database", "away", "look")

    done: list[str] = []
    for module, name in ((external, "demand_restorable"), (restore, "_demand_sound"),
                         (restore, "_demand_room"), (restore, "_backed_up"), (database, "migrations"),
                         (throw_away, "remove_left"), (restore_database, "drop_unfinished"), (backup_offsite, "bring"),
                         (restore, "_known"), (restore_media, "stage")):  # fmt: skip
        monkeypatch.setattr(module, name, lambda *_, **__: None)
    monkeypatch.setattr(recovery, "serve", lambda *_: done.append("served"))
    # The new database cannot be made, nor dropped.
    monkeypatch.setattr(restore_database, "create", failing)
    monkeypatch.setattr(restore_database, "drop", failing)
    settle = failing if not settles else lambda *_: None
    monkeypatch.setattr(restore_media, "settle", lambda *_: settle() if pending.read(tmp_path) else None)
    docker.lent["db"] = None  # type: ignore[assignment]  # nobody asks it
    with pytest.raises(EngineError, match=r"^away") as raised:
        restore.restore(docker, Report("restore", as_json=True), {"id": "one", "bytes": 1})
    assert done == ["served"]
    assert ("does not serve again: away" in raised.value.problem) is not settles
    assert (pending.read(tmp_path) is None) is settles


def test_media_files_are_judged_by_what_was_free_before_the_load(
    tmp_path: Path, docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    least = docker.stack.limits.min_free_bytes
    free = least + 100
    monkeypatch.setattr(disk, "engine_folder", lambda: tmp_path)
    monkeypatch.setattr(disk, "free", lambda _: free)
    room_for = restore._room(docker, 60)
    # By now half of the database is there.
    free -= 30
    room_for(40)
    with pytest.raises(EngineError, match="would not fit beside the restored database"):
        room_for(41)
    # Where the engine is another machine's, nobody can tell.
    monkeypatch.setattr(disk, "free", lambda _: None)
    restore._room(docker, 60)(10**15)


@pytest.mark.parametrize("kinds", [["safety", "manual"], ["safety"]])
def test_latest_is_not_what_a_restore_has_replaced(
    tmp_path: Path, docker: Docker, monkeypatch: pytest.MonkeyPatch, kinds: list[str]
) -> None:
    told = [{"id": kind, "kind": kind, "problem": ""} for kind in kinds]
    monkeypatch.setattr(backup, "_each", lambda _: iter(told))
    if "manual" in kinds:
        assert restore.choose(docker, "latest")["id"] == "manual"
    else:
        with pytest.raises(EngineError, match="There is no backup latest"):
            restore.choose(docker, "latest")
    (tmp_path / backup.FOLDER / "safety").mkdir(parents=True)
    assert restore.choose(docker, "safety")["id"] == "safety"


@pytest.mark.parametrize(
    ("differs", "said", "remedy"),
    [
        (Differs(["shop.0002_later"], []), "knows migrations that the backup was made without: shop.0002_later.",
         "make rollback"),
        (Differs([], ["shop.0005_newer"]), "does not know migrations that the backup was made with: shop.0005_newer.",
         "make deploy"),
        (Differs([], []), "does not get ready on it. ", "look"),
    ],
)  # fmt: skip
def test_code_that_does_not_get_ready_on_other_rows_is_told_with_what_was_kept(
    tmp_path: Path, docker: Docker, monkeypatch: pytest.MonkeyPatch, differs: Differs, said: str, remedy: str
) -> None:
    def failing(*_: object) -> None:
        raise EngineError("not_ready", "503", "look")

    pending.begin(tmp_path, pending.Pending("one", pending.RESTORE, "one"))
    monkeypatch.setattr(recovery, "serve", failing)
    with pytest.raises(EngineError) as raised:
        restore._serve(docker, Report("restore", as_json=True), {"id": "given", "release": ""}, differs, "Kept.")
    assert said in raised.value.problem
    assert "Kept.\n503" in raised.value.problem
    assert raised.value.remedy.startswith(remedy)
    # Where that is not why, the next run tries again.
    assert (pending.read(tmp_path) is None) is (differs != Differs([], []))


KNOWN = [Migration(name) for name in ("auth.0001_initial", "shop.0001_initial", "shop.0002_later")]


@pytest.mark.parametrize(
    ("known", "before", "after", "differs"),
    [
        # A rollback left the newer schema, and the backup is of just that.
        (KNOWN, ["auth.0001_initial", "shop.0001_initial", "shop.0002_later", "shop.0005_newer"],
         ["auth.0001_initial", "shop.0001_initial", "shop.0002_later", "shop.0005_newer"],
         Differs([], ["shop.0005_newer"])),
        # All was dropped by accident.
        (KNOWN, [], ["auth.0001_initial", "shop.0001_initial"], Differs(["shop.0002_later"], [])),
        # One that the code has no more, since it was squashed.
        (KNOWN, [], ["auth.0001_initial", "shop.0000_squashed", "shop.0001_initial", "shop.0002_later"],
         Differs([], [])),
        # What went with newer rows is nothing that the code knows.
        (KNOWN, ["auth.0001_initial", "shop.0001_initial", "shop.0002_later", "shop.0005_newer"],
         ["auth.0001_initial", "shop.0001_initial", "shop.0002_later"], Differs([], [])),
        (KNOWN, [], [], Differs([], [])),
        (None, ["shop.0001_initial", "shop.0002_later"], ["shop.0001_initial"], Differs(["shop.0002_later"], [])),
    ],
)  # fmt: skip
def test_a_restored_database_is_compared_with_the_code(
    known: list[Migration] | None, before: list[str], after: list[str], differs: Differs
) -> None:
    assert restore._differs(known, before, after) == differs


def test_code_that_does_not_tell_its_migrations_keeps_nobody_from_restoring(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for done in (command.Done(1, "", "no module named shop"), command.Done(0, 'kit-migrations: [["a.1", []]]\n', "")):
        monkeypatch.setattr(one_off, "run", lambda *_, done=done, **__: done)
        found = restore._known(docker, Report("restore", as_json=True))
        assert found == (None if done.code else [Migration("a.1")])


@pytest.mark.parametrize("files", [3, 0])
def test_media_files_that_have_nowhere_to_go_are_told(
    tmp_path: Path, docker: Docker, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    monkeypatch.setattr(Docker, "has_volume", lambda *_: False)
    said = io.StringIO()
    found = {"id": "one", "media": {"files": files, "bytes": 2**20}}
    report = Report("restore", as_json=False, stream=said)
    assert not restore_media.stage(docker, report, tmp_path, found, "kept", lambda _: None, Ending())
    assert ("warning: 3 media files, 1.0 MiB, are not brought back" in said.getvalue()) is bool(files)


def made_of_what_is_there(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, size: int | None, error: EngineError | None, *, without: bool
) -> list[str]:
    """What becomes of the backup of a database of some size."""
    done: list[str] = []

    def create(*_: object, **__: object) -> None:
        done.append("backup")
        if error:
            raise error

    monkeypatch.setattr(restore_database, "size", lambda *_: size)
    monkeypatch.setattr(restore_database, "create", lambda *_: done.append("empty one"))
    monkeypatch.setattr(backup, "create", create)
    wanted, server = restore.wanted_database(docker), command.Done(0, "", "")
    restore._backed_up(docker, Report("restore", as_json=True), server, wanted, {"id": "given"}, without)  # type: ignore[arg-type]  # nobody asks it
    return done


@pytest.mark.parametrize(
    ("size", "without", "done"),
    [(5, False, ["backup"]), (5, True, []), (None, False, ["empty one"]), (None, True, ["empty one"])],
)
def test_what_is_there_is_backed_up_unless_it_is_waived_or_there_is_nothing(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, size: int | None, without: bool, done: list[str]
) -> None:
    assert made_of_what_is_there(docker, monkeypatch, size, None, without=without) == done


@pytest.mark.parametrize(
    ("error", "waived"),
    [
        (EngineError("backup", "invalid page", "choose another"), True),
        (backup_room.NoRoomError("backup", "would not fit", "free some"), False),
        (EngineError("backup", "could not write: No space left on device", "free some"), False),
    ],
)
def test_what_cannot_be_backed_up_is_told_with_the_way_past_it_and_no_other_is_for_want_of_room(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, error: EngineError, waived: bool
) -> None:
    with pytest.raises(EngineError) as raised:
        made_of_what_is_there(docker, monkeypatch, 5, error, without=False)
    assert ("cannot be backed up" in raised.value.problem) is waived
    assert ("BACKUP=given CONFIRM=prod WITHOUT_BACKUP=1" in raised.value.remedy) is waived
    assert error.problem in raised.value.problem


def test_what_is_about_to_be_replaced_is_never_restored_for_a_test(docker: Docker) -> None:
    assert docker.stack.backup.level == verification.RESTORE
    level, why = verification.level_for(docker, 1, replaced=True)
    assert (level, "about to be replaced" in why) == (verification.READ, True)
    assert verification.level_for(docker, 1) == (verification.RESTORE, "")


@pytest.mark.parametrize("again", [False, True])
def test_leftovers_go_before_room_is_asked_for_and_that_is_asked_for_after_the_backup_too(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    done: list[str] = []

    def room(*_: object) -> None:
        done.append("room")
        if ("backup" in done) is again:
            raise backup_room.NoRoomError("backup", "would not fit", "free some")

    for module, name in ((throw_away, "remove_left"), (restore_database, "drop_unfinished")):
        monkeypatch.setattr(module, name, lambda *_, name=name: done.append(name))
    for module, name in ((external, "demand_restorable"), (restore_media, "settle"), (backup_offsite, "bring"),
                         (restore, "_demand_sound"), (restore_media, "forget"), (restore, "_known")):  # fmt: skip
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(restore, "_backed_up", lambda *_: done.append("backup"))
    monkeypatch.setattr(backup_room, "demand_to_restore", room)
    monkeypatch.setattr(restore_database, "kept", lambda *_: {"site_before_20260101_000000": 5 * 2**20})
    docker.lent["db"] = None  # type: ignore[assignment]  # nobody asks it
    with pytest.raises(EngineError, match=r"kept from before: site_before_20260101_000000 \(5 MiB\)") as raised:
        restore.restore(docker, Report("restore", as_json=True), {"id": "one", "bytes": 1})
    assert "make shell ENV=prod ARGS=db, and there: dropdb --username=" in raised.value.remedy
    assert done == ["remove_left", "drop_unfinished", "room", *(["backup", "room"] if again else [])]
