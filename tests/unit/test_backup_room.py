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
