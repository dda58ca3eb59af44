"""Whether there is room for a backup, for one that is restored or for one that is fetched, with what must stay free."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from kit_engine import disk
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.stack import Stack

# Of the backups, under the deploy root.
FOLDER = "shared/backups"
# Times the size of the last one's database: beyond, that one tells nothing, as when a site was filled since.
GROWN = 2
# What has come of one that is fetched from off-site; not named as what is unfinished, which the next backup removes.
FETCHED = ".fetched-"


class NoRoomError(EngineError):
    """Something would not fit, or leave too little free."""


def remove_fetched(root: Path, but: Optional[Path] = None) -> bool:
    """Remove what has come of backups whose fetch did not end.

    Args:
        root: the deploy root; the host's lock is held.
        but: the folder of one that is fetched now.

    Returns:
        Whether there was any.
    """
    found = [path for path in (root / FOLDER).glob(f"{FETCHED}*") if path != but]
    for left in found:
        shutil.rmtree(left)
    return bool(found)


def for_dump(before: Optional[Mapping[str, Any]], size: int) -> int:
    """Tell how many bytes a dump may take.

    Args:
        before: manifest of the last one, which tells how small a dump is beside its database; None where there is none.
        size: bytes of the database.

    Returns:
        Twice what that makes of this one, but no more than the database takes; all of it where it has grown so much
        that its rows are others, or nothing is known.
    """
    had = int(before.get("database_bytes", 0)) if before else 0
    if before is None or size > GROWN * had:
        return size
    return min(size, 2 * int(before["bytes"]) * size // had)


def demand(stack: Stack, places: dict[Path, int], problem: str = "The media files would not fit.") -> None:
    """Refuse to write so many bytes into folders where they would not fit, or leave too little free.

    What has come of a fetch goes before that: fetched again it costs time, and a backup that is not made may cost more.

    Args:
        stack: whose; the host's lock is held.
        places: bytes by the folder.
        problem: begins the message.

    Raises:
        NoRoomError: they do not fit.
    """
    found = _lacking(stack, places)
    if found and remove_fetched(stack.root):
        found = _lacking(stack, places)
    _refuse(found, problem)


def demand_to_restore(docker: Docker, size: int, what: str) -> None:
    """Refuse to load a database of so many bytes where it would not fit.

    Args:
        docker: the stack's containers.
        size: bytes of the database.
        what: begins the message, such as ``The test database``.

    Raises:
        NoRoomError: it would not fit, or leave too little free.
    """
    place = disk.engine_folder()
    if place:
        demand(docker.stack, {place: size}, f"{what} of {size / 2**20:.0f} MiB would not fit.")


def demand_to_fetch(stack: Stack, place: Path, size: int, problem: str) -> None:
    """Refuse to fetch so many bytes into a folder where they would not fit; what has come of them stays in any case."""
    _refuse(_lacking(stack, {place: size}), problem)


def _refuse(found: Optional[EngineError], problem: str) -> None:
    if found:
        raise NoRoomError("backup", f"{problem} {found.problem} Nothing was changed.", found.remedy)


def _lacking(stack: Stack, places: dict[Path, int]) -> Optional[EngineError]:
    """Each disk must take all that goes to it, and have left what the stack wants free."""
    disks: dict[int, tuple[Path, int]] = {}
    for place, wanted in places.items():
        # The engine's folder lies elsewhere when it is in a virtual machine.
        if place.is_dir():
            first, sum_of = disks.get(place.stat().st_dev, (place, 0))
            disks[place.stat().st_dev] = (first, sum_of + wanted)
    for place, wanted in disks.values():
        found = disk.problems([place], stack.limits.min_free_bytes + wanted)
        if found:
            return found[0]
    return None
