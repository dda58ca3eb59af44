"""The media files of a backup: each content once, those that an earlier good backup has by a hard link to it."""

from __future__ import annotations

import hashlib
import json
import os
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Optional

from kit_engine import command, disk, media_reader, streams, throw_away
from kit_engine.beside import Ending
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.verification import MEDIA, MEDIA_LIST, media_entries, media_path, sha256

# What reads files of any owner, and nothing else.
_CAPABILITIES = ("DAC_READ_SEARCH",)
# Size, times of change in ns, SHA-256.
_Kept = tuple[int, int, int, str]
_MOUNTED = "/kit-media"
# As much as is read of what it says when it fails.
_SAID = 1 << 16
_CONTENT = ("path", "kind", "size", "mtime_ns", "ctime_ns", "mode", "uid", "gid", "target", "sha256")


@dataclass
class Media:
    """What a backup has of the media files.

    Attributes:
        files: how many.
        bytes: of all of them.
        copied: bytes that were new since the earlier backup.
        changed: files that were written to as often as they were read; what was read last is kept.
        left_out: what is neither file nor folder nor link, such as a socket.
    """

    files: int = 0
    bytes: int = 0
    copied: int = 0
    changed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def copy(
    docker: Docker, volume: str, target: Path, earlier: Optional[Path], progress: streams.Progress,
    room_for: Callable[[int], None], ending: Ending,
) -> Media:  # fmt: skip
    """Copy the media volume into a backup.

    Args:
        docker: the stack's containers.
        volume: name of the volume.
        target: folder of the new backup.
        earlier: folder of a backup whose list of media files is sound; None where there is none.
        progress: told the bytes that were copied.
        room_for: refuses as many bytes as will be copied, where they would not fit.
        ending: ends it early.

    Returns:
        What the backup has.

    Raises:
        EngineError: the volume cannot be read, or the copy not be written.
    """
    (target / MEDIA).mkdir(mode=0o700)
    kept = _kept(earlier, ending)
    words = reader(docker, volume)
    try:
        with streams.open_to(words, docker.stack.backup.timeout_seconds, ending=ending) as (running, stdin, stdout):
            try:
                stdin.writelines(json.dumps([path, *one]).encode() + b"\n" for path, one in kept.items())
                stdin.close()
            except BrokenPipeError:
                raise _unreadable(docker, stdout.read(_SAID).decode("utf-8", "replace")) from None
            done = _take(docker, stdout, target, earlier, kept, progress, room_for)
            if running.wait():
                raise _unreadable(docker, f"what reads them ended with {running.returncode}")
    except BaseException:
        if words[0] == "docker":
            command.run(["docker", "rm", "--force", throw_away.name_of(docker, "media")])
        raise
    disk.sync(target)
    return done


def reader(docker: Docker, volume: str) -> list[str]:
    """Give the command that reads a volume (:mod:`kit_engine.media_reader`).

    A container takes a third of a second of two processors to start, and each byte goes through Docker three times; so
    the volume's own folder is read where that is sure to be it, and owners have the numbers there that the app sees.

    Args:
        docker: the stack's containers.
        volume: name of the volume.
    """
    source = pkgutil.get_data("kit_engine", "media_reader.py")
    assert source is not None  # noqa: S101 - it lies beside us
    script = source.decode("utf-8")
    # Names are what the app's Python takes them for, whatever the host's locale is.
    place = disk.volume_folder(volume) if os.geteuid() == 0 else None
    if place:
        return [sys.executable, "-I", "-X", "utf8", "-c", script, str(place)]
    image, _ = docker.web_settings()
    return [
        *throw_away.words(docker, throw_away.name_of(docker, "media"), _CAPABILITIES),
        # A log of what it says would be a second copy.
        *("--rm", "--interactive", "--log-driver", "none", "--read-only", "--user", "0:0"),
        # Without nocopy Docker gives a volume that is empty the owner of the image's folder.
        *("--volume", f"{volume}:{_MOUNTED}:ro,nocopy", "--entrypoint", "python", image),
        *("-c", script, _MOUNTED),
    ]


def _kept(earlier: Optional[Path], ending: Ending) -> dict[str, _Kept]:
    """The files of an earlier backup whose content there is still what it was: a bad copy is not handed on."""
    if earlier is None or not (earlier / MEDIA_LIST).is_file():
        return {}
    kept = {
        one["path"]: (one["size"], one["mtime_ns"], one["ctime_ns"], one["sha256"])
        for one in media_entries(earlier)
        if one["kind"] == "file" and not one.get("unsteady")
    }
    good = set()
    for digest in {one[-1] for one in kept.values()}:
        ending.demand_none()
        if _is_good(media_path(earlier, digest), digest):
            good.add(digest)
    return {path: one for path, one in kept.items() if one[-1] in good}


def _is_good(path: Path, digest: str) -> bool:
    try:
        return sha256(path) == digest
    except OSError:
        return False


def _take(
    docker: Docker, stream: IO[bytes], target: Path, earlier: Optional[Path], kept: dict[str, _Kept],
    progress: streams.Progress, room_for: Callable[[int], None],
) -> Media:  # fmt: skip
    done = Media()
    compared = streams.Progress(progress.report, "media compared")
    while "compared" in (first := _line(docker, stream)):
        compared.at(int(first["compared"]))
    progress.total = int(first["bytes"])
    room_for(progress.total)
    descriptor = os.open(target / MEDIA_LIST, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as listed:
        while True:
            entry = _line(docker, stream)
            if "end" in entry:
                break
            if entry["kind"] == "other":
                done.left_out.append(entry["path"])
                continue
            if entry["kind"] == "file" and entry["same"]:
                assert earlier is not None  # noqa: S101 - nothing is the same without one
                entry["sha256"] = kept[entry["path"]][-1]
                _link(media_path(earlier, entry["sha256"]), media_path(target, entry["sha256"]))
            elif entry["kind"] == "file":
                read = _content(docker, stream, target, progress, done)
                if read["state"] == media_reader.GONE:
                    continue
                entry.update(read)
                if entry["state"] == media_reader.CHANGED:
                    done.changed.append(entry["path"])
                    entry["unsteady"] = True
            if entry["kind"] == "file":
                done.files += 1
                done.bytes += entry["size"]
            told = {name: entry[name] for name in (*_CONTENT, "unsteady") if name in entry}
            listed.write(json.dumps(told) + "\n")
        listed.flush()
        os.fsync(listed.fileno())
    return done


def _content(
    docker: Docker, stream: IO[bytes], target: Path, progress: streams.Progress, done: Media
) -> dict[str, Any]:
    """Receive a file, as often as it is sent; gives what became of it."""
    new = target / ".media"
    while True:
        digest = hashlib.sha256()
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            while True:
                (length,) = media_reader.LENGTH.unpack(_exactly(docker, stream, media_reader.LENGTH.size))
                if not length:
                    break
                piece = _exactly(docker, stream, length)
                digest.update(piece)
                file.write(piece)
                done.copied += length
                progress.at(done.copied)
        told = _line(docker, stream)
        if told["state"] == media_reader.GONE:
            new.unlink()
            return told
        if told["state"] != media_reader.AGAIN:
            path = media_path(target, digest.hexdigest())
            path.parent.mkdir(mode=0o700, exist_ok=True)
            new.replace(path)
            return {**told, "sha256": digest.hexdigest()}


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        # Of the same content.
        pass
    except FileNotFoundError:
        target.parent.mkdir(mode=0o700)
        os.link(source, target)


def _line(docker: Docker, stream: IO[bytes]) -> dict[str, Any]:
    line = stream.readline()
    try:
        told: dict[str, Any] = json.loads(line)
    except ValueError:
        raise _unreadable(docker, (line + stream.read(_SAID)).decode("utf-8", "replace")) from None
    return told


def _exactly(docker: Docker, stream: IO[bytes], length: int) -> bytes:
    piece = stream.read(length)
    if len(piece) < length:
        # Where Python says why, that comes in place of the next piece, its first letters as the length.
        said = piece[-_SAID:].decode("utf-8", "replace").rpartition("eback (most recent call last):")
        raise _unreadable(docker, "it ended in the midst of a file" + (said[2] if said[1] else ""))
    return piece


def _unreadable(docker: Docker, said: str) -> EngineError:
    return EngineError(
        "backup",
        f"The media files of {docker.stack.project} cannot be read whole:\n{command.tail(said)}\nNothing was changed.",
        docker.stack.make("backup") + "    (tries again)",
    )
