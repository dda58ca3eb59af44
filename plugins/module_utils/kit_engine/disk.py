"""Whether the disks that a deploy fills have room, asked before anything is brought or started."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional
from urllib.parse import quote

from kit_engine import command, docker_socket
from kit_engine.errors import CheckFailed, EngineError

REMEDY = "docker system df    (shows what could go), or free space elsewhere on that disk"


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
        EngineError("disk", lacking(place, free, wanted), REMEDY) for place, free in disks.values() if free < wanted
    ]


def free(place: Optional[Path]) -> Optional[int]:
    """Give the bytes that are free where a folder lies; None where it is not on this machine."""
    return shutil.disk_usage(place).free if place and place.is_dir() else None


def lacking(place: Optional[Path], free: int, wanted: int) -> str:
    """Say that a disk has too little room.

    Args:
        place: a folder on it.
        free: bytes that are.
        wanted: bytes that should be.
    """
    return f"{place} has {_gib(free)} GiB free; {_gib(wanted)} GiB are needed (min_free_bytes)."


def demand(place: Path, wanted: int) -> None:
    """Refuse to bring an image to a host whose disks are nearly full.

    Args:
        place: folder that is written to besides the engine's own.
        wanted: bytes that must be free in both.

    Raises:
        CheckFailed: with every disk that has less.
    """
    found = problems([engine_folder(), place], wanted)
    if found:
        raise CheckFailed(found)


def sync(place: Path) -> None:
    """Have all on a folder's file system written to the disk.

    Thousands of small files: one by one they would take minutes; and a sync of all file systems would wait for one
    that hangs, though nothing of ours is there.

    Args:
        place: the folder.

    Raises:
        OSError: something could not be written.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "syncfs"):
        # Such as on macOS.
        os.sync()
        return
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if libc.syncfs(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(place))
    finally:
        os.close(descriptor)


def engine_info() -> Mapping[str, Any]:
    """Give what the engine tells of itself; empty where it does not answer."""
    info = docker_socket.get("/info")
    if info is None:
        try:
            info = json.loads(command.run(["docker", "info", "--format", "{{json .}}"]).out)
        except ValueError:
            info = None
    return info if isinstance(info, dict) else {}


def engine_folder() -> Optional[Path]:
    """Where the engine keeps images and volumes; on another machine where it is remote or in a virtual one."""
    told = engine_info().get("DockerRootDir")
    return Path(str(told)) if told else None


def has_other_users() -> bool:
    """Whether containers' users have other numbers on this machine: the engine is rootless, or has user namespaces."""
    options = engine_info().get("SecurityOptions") or ()
    return any(str(one).startswith(("name=rootless", "name=userns")) for one in options)


def volume_folder(name: str) -> Optional[Path]:
    """Give the folder of a volume on this machine.

    Args:
        name: of the volume.

    Returns:
        The folder; None where it is not sure to be here as containers see it. The volume is none of the engine's own
        folders, as of NFS, mounted only while it is in use; no container that runs has just this folder, as where the
        engine is another machine's; or users have other numbers in there, as where it is rootless.
    """
    volume = docker_socket.get(f"/volumes/{quote(name, safe='')}")
    if not isinstance(volume, dict) or volume.get("Driver") != "local" or volume.get("Options"):
        return None
    place = Path(str(volume.get("Mountpoint")))
    for one in docker_socket.get("/containers/json", filters=json.dumps({"volume": [name]})) or ():
        told = docker_socket.get(f"/containers/{one['Id']}/json") or {}
        with suppress(OSError, KeyError, TypeError, StopIteration):
            inside = next(mount["Destination"] for mount in one["Mounts"] if mount.get("Name") == name)
            process = Path(f"/proc/{told['State']['Pid']}")
            same_users = (process / "uid_map").read_text().split() == Path("/proc/self/uid_map").read_text().split()
            if same_users and Path(f"{process}/root{inside}").samefile(place):
                # Somebody may have led it to another disk by a link.
                return place.resolve()
    return None


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
