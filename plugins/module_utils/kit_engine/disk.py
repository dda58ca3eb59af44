"""Whether the disks that a deploy fills have room, asked before anything is brought or started."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

from kit_engine import command
from kit_engine.errors import CheckFailed, EngineError


def problems(places: Iterable[Optional[Path]], wanted: int) -> list[EngineError]:
    """Judge the disks that some folders lie on.

    Args:
        places: the folders; None and those that are not there are passed over, and each disk is judged once.
        wanted: bytes that must be free.

    Returns:
        One problem for each disk that has less.
    """
    disks: dict[int, tuple[Path, int]] = {}
    for place in places:
        if place and place.is_dir():
            disks.setdefault(place.stat().st_dev, (place, shutil.disk_usage(place).free))
    return [
        EngineError(
            "disk",
            f"{place} has {_gib(free)} GiB free; {_gib(wanted)} GiB are needed (min_free_bytes).",
            "docker system df    (shows what could go), or free space elsewhere on that disk",
        )
        for place, free in disks.values()
        if free < wanted
    ]


def demand(place: Path, wanted: int) -> None:
    """Refuse to bring an image to a host whose disks are nearly full.

    Args:
        place: folder that is written to besides the engine's own.
        wanted: bytes that must be free in both.

    Raises:
        CheckFailed: with every disk that has less.
    """
    told = command.run(["docker", "info", "--format", "{{.DockerRootDir}}"])
    # The engine's folder lies elsewhere when it is remote or in a virtual machine.
    found = problems([Path(told.out.strip()) if told.out.strip() else None, place], wanted)
    if found:
        raise CheckFailed(found)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
