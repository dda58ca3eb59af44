"""Room for backups, and for what is fetched from off-site."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from kit_engine import backup, backup_offsite, backup_room, disk, offsite_place, restic, stack
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report
from support.kit import ROOT

GIVEN = "20250101T120000Z-prod"
ROOM = 100


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    """A stack on a disk that has room for so many bytes, beside what must stay free; a fetch takes half of them."""
    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    made = stack.read(data, tmp_path, tmp_path / "releases/one")
    (tmp_path / backup.FOLDER).mkdir(parents=True)

    def usage(_: object) -> SimpleNamespace:
        taken = sum(ROOM // 2 for _ in fetched(tmp_path))
        return SimpleNamespace(free=made.limits.min_free_bytes + ROOM - taken)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setattr(disk, "engine_folder", lambda: tmp_path)
    return Docker(made)


def fetched(root: Path) -> list[Path]:
    """What has come of fetches."""
    return list((root / backup.FOLDER).glob(f"{backup_room.FETCHED}*"))


def a_backup(docker: Docker, size: int) -> None:
    backup._demand_space(docker, docker.stack.root / backup.FOLDER, size, restores=False)


def media_files(docker: Docker, size: int) -> None:
    backup_room.demand(docker.stack, {docker.stack.root / backup.FOLDER: size})


def a_restored_database(docker: Docker, size: int) -> None:
    backup_room.demand_to_restore(docker, size, "The test database")


@pytest.mark.parametrize("wanted", [a_backup, media_files, a_restored_database])
@pytest.mark.parametrize(
    ("size", "stays", "fits"), [(ROOM // 2, True, True), (ROOM // 2 + 1, False, True), (ROOM + 1, False, False)]
)
def test_what_a_fetch_has_left_gives_way(
    docker: Docker, wanted: Callable[[Docker, int], None], size: int, stays: bool, fits: bool
) -> None:
    (docker.stack.root / backup.FOLDER / f"{backup_room.FETCHED}{GIVEN}").mkdir()
    if fits:
        wanted(docker, size)
    else:
        with pytest.raises(EngineError, match="would not fit"):
            wanted(docker, size)
    assert bool(fetched(docker.stack.root)) is stays


def test_a_fetch_goes_on_from_what_has_come_of_it(docker: Docker) -> None:
    folder = docker.stack.root / backup.FOLDER
    (folder / f"{backup_room.FETCHED}{GIVEN}").mkdir()
    with pytest.raises(EngineError, match="Backup would not fit"):
        backup_room.demand_to_fetch(docker.stack, folder, ROOM, "Backup would not fit.")
    assert fetched(docker.stack.root)


def test_a_fetch_ends_well_whatever_lies_beside_it(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = docker.stack.root / backup.FOLDER
    new = folder / f"{backup_room.FETCHED}{GIVEN}"

    class Place:
        """Brings the backup, and leaves something of its own."""

        def demand(self, *_: str, limit: float) -> None:
            assert limit
            (new / offsite_place.TOP).mkdir()
            (new / offsite_place.TOP / backup.MANIFEST).touch()
            (new / ".restic-left").touch()

    monkeypatch.setattr(restic, "opened", lambda _: nullcontext(Place()))
    one = offsite_place.Snapshot("1", "id", GIVEN, "a", frozenset(), 0.0)
    monkeypatch.setattr(offsite_place, "snapshots", lambda _: [one])
    found = {"id": GIVEN, "bytes": 1}
    backup_offsite.bring(docker.stack, Report("restore", as_json=True), found)
    assert [path.name for path in folder.iterdir()] == [GIVEN]


MIB = 2**20


@pytest.mark.parametrize(
    ("before", "size", "room"),
    [
        (None, 100 * MIB, 100 * MIB),
        # An empty site's, before all was brought in.
        ({"bytes": 50_000, "database_bytes": 8 * MIB}, 100_000 * MIB, 100_000 * MIB),
        ({"bytes": 10 * MIB, "database_bytes": 100 * MIB}, 200 * MIB, 40 * MIB),
        ({"bytes": 10 * MIB, "database_bytes": 100 * MIB}, 200 * MIB + 1, 200 * MIB + 1),
        ({"bytes": 10 * MIB, "database_bytes": 100 * MIB}, 100 * MIB, 20 * MIB),
        # One that hardly compresses is no larger than the database.
        ({"bytes": 90 * MIB, "database_bytes": 100 * MIB}, 110 * MIB, 110 * MIB),
        # By an earlier kit.
        ({"bytes": 10 * MIB}, 100 * MIB, 100 * MIB),
    ],
)
def test_room_for_a_dump_is_told_by_the_last_one_of_a_database_as_large(
    before: dict[str, int] | None, size: int, room: int
) -> None:
    assert backup_room.for_dump(before, size) == room


def test_room_is_not_told_by_a_dump_of_what_a_restore_replaced(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"id": GIVEN, "problem": "", "bytes": 10, "database_bytes": ROOM}
    of_nothing = {**told, "kind": backup.SAFETY, "bytes": 1}
    for kept in ([of_nothing, {**told, "kind": backup.MANUAL, "bytes": ROOM // 2}], [of_nothing]):
        monkeypatch.setattr(backup, "_each", lambda _, kept=kept: iter(kept))
        a_backup(docker, ROOM)
        with pytest.raises(EngineError, match="The backup would not fit"):
            a_backup(docker, ROOM + 2)
