"""Media files of a backup that keeps nothing here: restic reads them from the volume's own folder on this host."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from kit_engine import command, disk, dump_feed, media_reader, offsite_place, pipes, restic, streams
from kit_engine.backup_media import Media
from kit_engine.beside import Ending
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report
from kit_engine.verification import DamagedError

# Of a manifest: restic's id of the snapshot that holds them; empty or lacking where there are none, or they lie here.
SNAPSHOT = "media_snapshot"
_ARCHIVE = ("dump", "--no-lock", "--archive", "tar")


def folder_of(docker: Docker) -> Optional[Path]:
    """Find the folder of the media volume.

    Args:
        docker: the stack's containers.

    Returns:
        The folder; None where the project has no media files in a volume.

    Raises:
        EngineError: it is no plain folder of this host, such as one of a share, which is mounted only at times; or its
            files have other owners here than inside, where they could not be given back.
    """
    stack = docker.stack
    volume = stack.app_files.media_volume if stack.app_files else ""
    if not volume or not docker.has_volume(volume):
        return None
    words = ["docker", "volume", "inspect", "--format", "{{json .}}", volume]
    told = json.loads(command.demand(words, code="docker", remedy="docker info").out)
    folder = Path(told["Mountpoint"])
    why = ""
    if told["Driver"] != "local" or told.get("Options") or not folder.is_dir():
        why = f"is no plain folder of this host ({folder}), so restic cannot read it"
    elif disk.has_other_users():
        # Not disk.volume_folder, which asks a container that runs: a backup is made before the deploy that mends web.
        why = "has other owners here than inside (Docker's engine is rootless, or has user namespaces), so restic "
        why += "cannot bring it back as it was"
    if why:
        raise EngineError(
            "backup",
            f"Volume {volume} with the media files {why}, and backup_local_copy is false. Nothing was changed.",
            f"set backup_local_copy: true in inventories/{stack.env}, then: {stack.make('deploy')}",
        )
    return folder


def apart(told: Mapping[str, Any]) -> dict[str, str]:
    """Give the snapshots that a backup needs beside that of its folder.

    Args:
        told: its manifest.

    Returns:
        restic's ids, by the part that each holds; none where all of it lies in the folder.
    """
    found = {offsite_place.DUMP: told.get(dump_feed.SNAPSHOT), offsite_place.MEDIA: told.get(SNAPSHOT)}
    return {part: str(one) for part, one in found.items() if one}


def demand_there(docker: Docker, told: Mapping[str, Any]) -> None:
    """Refuse a backup of which something went from where it lay; one that lies here is not asked for.

    Args:
        docker: the stack's containers.
        told: its manifest.

    Raises:
        DamagedError: the place has it no more.
        EngineError: the place does not answer.
    """
    needed = apart(told)
    if needed:
        with dump_feed.opened(docker) as place:
            gone = lacking(place, needed)
            if gone:
                problem = f"The {gone[0]} of backup {told['id']} lies off-site no more. Nothing was changed."
                raise DamagedError("offsite", problem, place.stack.make("backup"))


def lacking(place: restic.Place, needed: Mapping[str, str]) -> list[str]:
    """Name the parts of a backup, as :func:`apart` gives them, that a place has no snapshot of."""
    there = {one.id for one in offsite_place.snapshots(place)}
    return [part for part, one in needed.items() if one not in there]


def send(place: restic.Place, report: Report, folder: Path, given: str) -> tuple[Media, str]:
    """Back them up.

    Args:
        place: where to.
        report: where progress is told.
        folder: of the volume.
        given: the backup's id.

    Returns:
        What the backup has of them, and restic's id of the snapshot.

    Raises:
        EngineError: a file could not be read as often as was tried.
    """
    words = ["backup", *offsite_place.tagged(place.stack, offsite_place.MEDIA, given)]
    # The folder itself, and not what is in it: restic makes no snapshot of nothing.
    words += [*(f"--exclude={folder / name}" for name in media_reader.RESTORING), folder.name]
    # A file that went while restic looked at it counts as one that it could not read.
    for _ in range(media_reader.ATTEMPTS):
        done = place.moved(words, folder.parent, streams.Progress(report, "media copied off-site"))
        if done.code != restic.INCOMPLETE:
            break
    if done.code:
        raise place.failure("backup", done.said)
    told = done.summary
    media = Media(int(told["total_files_processed"]), int(told["total_bytes_processed"]), int(told["data_added"]))
    return media, offsite_place.newest(place, offsite_place.MEDIA, given)


def check(docker: Docker, report: Optional[Report], told: Mapping[str, Any]) -> None:
    """Read all of them back: restic compares each piece with the SHA-256 that the snapshot's own id leads to.

    Args:
        docker: the stack's containers.
        report: where progress is told.
        told: the backup's manifest; where its media files lie on this host nothing is done.

    Raises:
        EngineError: they cannot be read.
    """
    if told.get(SNAPSHOT):
        progress = streams.Progress(report, "media read", int(told["media"]["bytes"]))
        with dump_feed.opened(docker) as place:
            first = place.program(*_ARCHIVE, str(told[SNAPSHOT]), "/")
            ended = pipes.joined(first, None, limit=docker.stack.backup.timeout_seconds, progress=progress)
            if ended.wrong or ended.size < told["media"]["bytes"]:
                raise place.failure("dump", ended.said[0])


def fetch(docker: Docker, report: Report, words: Sequence[str], told: Mapping[str, Any], ending: Ending) -> None:
    """Hand them to what lays them beside those in use.

    Args:
        docker: the stack's containers.
        report: where progress is told.
        words: what reads a tar archive; the number of files is put behind.
        told: the backup's manifest.
        ending: ends it early.

    Raises:
        EngineError: they cannot be read off-site, or not be written here.
    """
    progress = streams.Progress(report, "media restored", int(told["media"]["bytes"]))
    reader = pipes.Program([*words, str(told["media"]["files"])])
    with dump_feed.opened(docker) as place:
        ended = pipes.joined(
            place.program(*_ARCHIVE, str(told[SNAPSHOT]), "/"), reader,
            limit=docker.stack.backup.timeout_seconds, progress=progress, look=ending.demand_none,
        )  # fmt: skip
        if ended.wrong == 1:
            raise place.failure("dump", ended.said[0])
    if ended.wrong:
        raise EngineError(
            "backup",
            f"The media files cannot be brought back:\n{command.tail(ended.said[1])}\nThose in use were not touched.",
            docker.stack.make("restore") + "    (tries again)",
        )
