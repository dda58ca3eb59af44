"""Bring the media files of a backup back: laid beside those in use, and swapped in when the database is.

A note says under which name the database in use was to be kept. Whether that name is there tells after a cut, whenever
it came, whether the media files have to follow the database, or are dropped. Those that were in use stay in the volume
under the same name, for as long as that database does.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from kit_engine import command, external, media_away, media_writer, releases, restore_database, streams, throw_away
from kit_engine.backup_loss import media_figures
from kit_engine.beside import Ending
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report
from kit_engine.stack import Database
from kit_engine.verification import MEDIA_LIST, media_entries, media_path

NOTE = "records/restoring_media.json"
# Names of the databases whose media files are in the volume still.
KEPT = "records/kept_media.json"
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER")
_MOUNTED = "/kit-media"
_PIECE = 1 << 20


def volume_of(docker: Docker) -> str:
    """Name the media volume of the stack; empty where it has none."""
    files = docker.stack.app_files
    return files.media_volume if files and files.media_volume and docker.has_volume(files.media_volume) else ""


def stage(
    docker: Docker, report: Report, folder: Path, found: Mapping[str, Any], kept: str, room_for: Callable[[int], None],
    ending: Ending,
) -> bool:  # fmt: skip
    """Lay the media files of a backup beside those in use.

    Args:
        docker: the stack's containers.
        report: where progress is told.
        folder: of the backup; it is sound.
        found: its manifest.
        kept: name that the database in use will bear.
        room_for: refuses as many bytes as will be written, where they would not fit.
        ending: ends it early.

    Returns:
        Whether there are any: a backup of a project without a media volume has no list of them.

    Raises:
        EngineError: they cannot be written; those in use are untouched.
    """
    volume = volume_of(docker)
    away = bool(found.get(media_away.SNAPSHOT))
    if not volume and (found.get("media") or {}).get("files"):
        report.say(f"    warning: {media_figures(found['media'])}, are not brought back: there is no media volume")
    if not volume or not (away or (folder / MEDIA_LIST).is_file()):
        return False
    releases.replace(docker.stack.root / NOTE, json.dumps({"kept": kept}) + "\n")
    if away:
        room_for(int(found["media"]["bytes"]))
    try:
        if away:
            media_away.fetch(docker, report, _words(docker, volume, "unpack"), found, ending)
        else:
            _lay(docker, report, _words(docker, volume, "stage"), folder, room_for, ending)
    finally:
        _gone(docker)
    return True


def stage_again(docker: Docker, report: Report, folder: Path, found: Mapping[str, Any]) -> None:
    """Lay those anew that the app has written to since: what is in use as it was in the backup, is the same file.

    Args:
        docker: the stack's containers; the app's have ended.
        report: where progress is told.
        folder: of the backup.
        found: its manifest; :func:`stage` found media files in it.

    Raises:
        EngineError: they cannot be written; those in use are untouched.
    """
    if not found.get(media_away.SNAPSHOT):
        try:
            _lay(docker, report, _words(docker, volume_of(docker), "again"), folder, lambda _: None, Ending())
        finally:
            _gone(docker)


def is_unsettled(root: Path) -> bool:
    """Whether a restore was cut off that had begun to bring media files back (:func:`settle`)."""
    return (root / NOTE).exists()


def settle(docker: Docker, wanted: Database | None) -> None:
    """Have the media files follow the database, wherever a restore was cut off; nothing where none was.

    Args:
        docker: the stack's containers; the database runs.
        wanted: the database.

    Raises:
        EngineError: they cannot be put into place.
    """
    path = docker.stack.root / NOTE
    volume = volume_of(docker)
    try:
        kept = str(json.loads(path.read_text(encoding="utf-8"))["kept"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if wanted and volume:
        # One that a killed run has left may write yet.
        throw_away.remove_left(docker)
        if _there(docker, wanted, [kept]):
            _note_kept(docker, {*_noted(docker), kept})
            _write(docker, volume, "finish", kept)
        else:
            _write(docker, volume, "drop")
    path.unlink(missing_ok=True)


def forget(docker: Docker, wanted: Database) -> None:
    """Remove the media files that restores have replaced, of databases that are no more.

    Args:
        docker: the stack's containers; the database runs.
        wanted: the database.

    Raises:
        EngineError: they cannot be removed.
    """
    noted, volume = _noted(docker), volume_of(docker)
    if noted and volume:
        there = _there(docker, wanted, noted)
        if there != noted:
            _write(docker, volume, "forget", *sorted(there))
            _note_kept(docker, there)


def _there(docker: Docker, wanted: Database, names: Collection[str]) -> set[str]:
    """Which of some databases there are."""
    with external.reached(docker, wanted, lacking=True) as server:
        return restore_database.names(docker, server, wanted) & set(names)


def _noted(docker: Docker) -> set[str]:
    try:
        return {str(one) for one in json.loads((docker.stack.root / KEPT).read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError):
        return set()


def _note_kept(docker: Docker, names: Collection[str]) -> None:
    releases.replace(docker.stack.root / KEPT, json.dumps(sorted(names)) + "\n")


def _write(docker: Docker, volume: str, *what: str) -> None:
    try:
        done = command.run(_words(docker, volume, *what), limit=docker.stack.backup.timeout_seconds)
    finally:
        _gone(docker)
    if done.code:
        raise _unsettled(docker, done.err)


def _lay(
    docker: Docker, report: Report, words: Sequence[str], folder: Path, room_for: Callable[[int], None], ending: Ending
) -> None:
    """Hand over what the backup has of them here."""
    sizes = {str(one["sha256"]): int(one["size"]) for one in media_entries(folder) if one["kind"] == "file"}
    progress = streams.Progress(report, "media restored")
    with streams.open_to(words, docker.stack.backup.timeout_seconds, ending=ending) as opened:
        writer, stdin, stdout = opened
        try:
            stdin.writelines(json.dumps(one).encode() + b"\n" for one in media_entries(folder))
            stdin.write(b"\n")
            stdin.flush()
            wanted = []
            while (line := stdout.readline().decode("ascii", "replace").strip()) in sizes:
                wanted.append(line)
            if not line:
                progress.total = sum(sizes[digest] for digest in wanted)
                room_for(progress.total)
                _send(stdin, folder, wanted, progress)
            stdin.close()
        except BrokenPipeError:
            line = "it ended early"
        said = stdout.read().decode("utf-8", "replace")
        if writer.wait() or line:
            raise EngineError(
                "backup",
                f"The media files cannot be brought back:\n{command.tail(line + chr(10) + said)}\n"
                "Those in use were not touched.",
                docker.stack.make("restore") + "    (tries again)",
            )


def _send(stdin: Any, folder: Path, wanted: list[str], progress: streams.Progress) -> None:
    sent = 0
    for digest in wanted:
        with media_path(folder, digest).open("rb") as file:
            while True:
                piece = file.read(_PIECE)
                stdin.write(media_writer.LENGTH.pack(len(piece)) + piece)
                if not piece:
                    break
                sent += len(piece)
                progress.at(sent)


def _words(docker: Docker, volume: str, *what: str) -> list[str]:
    source = pkgutil.get_data("kit_engine", "media_writer.py")
    assert source is not None  # noqa: S101 - it lies beside us
    image, _ = docker.web_settings()
    return [
        *throw_away.words(docker, throw_away.name_of(docker, "media"), _CAPABILITIES),
        *("--rm", "--interactive", "--log-driver", "none", "--read-only", "--user", "0:0"),
        *("--volume", f"{volume}:{_MOUNTED}:nocopy", "--entrypoint", "python", image),
        *("-c", source.decode("utf-8"), _MOUNTED, *what),
    ]


def _gone(docker: Docker) -> None:
    command.run(["docker", "rm", "--force", throw_away.name_of(docker, "media")])


def _unsettled(docker: Docker, said: str) -> EngineError:
    return EngineError(
        "backup",
        f"The media files that belong to the database cannot be put into place:\n{command.tail(said)}",
        docker.stack.make("deploy") + "    (goes on with it)",
    )
