"""Copies of backups elsewhere, by restic: encrypted before they leave the host.

What is a copy of a backup on this host is never removed from here; what lies there only goes by retention.


Nothing here wants the host's lock: a copy may take hours, and a release must not wait for it. Copies of two runs wait
for each other.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any, Optional

from kit_engine import (
    backup,
    backup_room,
    disk,
    dump_feed,
    media_away,
    offsite_place,
    releases,
    restic,
    streams,
    verification,
)
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.offsite_place import Snapshot
from kit_engine.report import Report, duration
from kit_engine.restic import Place
from kit_engine.stack import Stack

# Nobody takes it for a backup, or removes it.
_DAMAGED = ".damaged-"
# A clock may be set back a little.
_DAY = 86_400.0
# As many ids of a host are named.
SHOWN = 3


def copy_verb(docker: Docker, arguments: argparse.Namespace) -> None:
    """Copy what lies on this host only."""
    report: Report = arguments.report
    stack = docker.stack
    _demand_configured(stack)
    report.names = ("copy",)
    with report.step("copy"):
        copied = copy(stack, report)
    text = f"Copied off-site: {', '.join(copied)}" if copied else "Every backup lies off-site already."
    report.done({"changed": bool(copied), "copied": copied, "message": text}, text)


def copy(stack: Stack, report: Report) -> list[str]:
    """Copy each good backup that lies on this host only, the newest first; what was missed once is made up for.

    Args:
        stack: whose.
        report: where it is told.

    Returns:
        Ids of those that were copied; none where no place is configured.

    Raises:
        EngineError: a copy failed, which is noted too; the backups on this host are as they were.
    """
    if not stack.backup.offsite_repository:
        return []
    copied: list[str] = []
    with offsite_place.alone(stack, report):
        given = ""
        try:
            with restic.opened(stack) as place:
                offsite_place.demand_repository(place)
                found = offsite_place.snapshots(place)
                away = {(one.host, one.backup) for one in offsite_place.whole(found)}
                for one in backup.listed(stack.root):
                    given = str(one["id"])
                    # What keeps no dump here lies there since it was made, or is no backup.
                    there = lies(away, one) and given not in offsite_place.state(stack).again
                    if one["problem"] or one.get(dump_feed.SNAPSHOT) or there:
                        continue
                    _send(place, report, given)
                    copied.append(given)
        except (EngineError, OSError) as error:
            problem = error.problem if isinstance(error, EngineError) else str(error)
            offsite_place.note(stack, id=given, ended=time.time(), problem=problem)
            if isinstance(error, EngineError):
                raise
            raise EngineError("offsite", problem, stack.make("copy-offsite")) from error
        offsite_place.note(stack, ended=time.time(), good=time.time(), problem="")
    return copied


def copy_made(stack: Stack, report: Report, given: str) -> None:
    """Copy a backup that was made just now, and what was missed before.

    Args:
        stack: whose.
        report: where it is told.
        given: the backup's id.

    Raises:
        EngineError: that failed; the message says that the backup stands.
    """
    try:
        copy(stack, report)
    except EngineError as error:
        problem = f"Backup {given} is good and lies on this host, but could not be copied off-site. {error.problem}"
        raise EngineError(error.code, problem, error.remedy) from None


def check(stack: Stack, report: Report) -> None:
    """Have restic check the place, and read one part of its data: the next one where the last one was good.

    Args:
        stack: whose; nothing is done where no place is configured.
        report: where it is told.

    Raises:
        EngineError: something there is damaged or lacking, which is noted too.
    """
    parts = stack.backup.offsite_check_parts
    if not stack.backup.offsite_repository:
        return
    with restic.opened(stack) as place:
        _free(place, report)
        part = offsite_place.state(stack).part % parts + 1
        try:
            # It may take hours, and changes nothing: a backup that is streamed meanwhile does not wait for it.
            words = ("check", "--no-lock", f"--read-data-subset={part}/{parts}")
            place.demand(*words, limit=stack.backup.timeout_seconds)
        except EngineError as error:
            _checked(stack, report, check_problem=error.problem)
            raise
    _checked(stack, report, check_problem="", part=part)
    report.say(f"    off-site: part {part} of {parts} was read, all of it is good")


def _checked(stack: Stack, report: Report, **found: Any) -> None:
    with offsite_place.alone(stack, report):
        offsite_place.note(stack, checked=time.time(), **found)


def _free(place: Place, report: Report) -> None:
    """Free the room of snapshots that were removed."""
    if not offsite_place.state(place.stack).loose:
        return
    with offsite_place.alone(place.stack, report):
        try:
            place.demand("prune", limit=place.stack.backup.timeout_seconds)
        except EngineError as error:
            report.say(f"    warning: room off-site was not freed, the next drill tries again: {error.problem}")
            return
        offsite_place.note(place.stack, loose=False)


def listed(stack: Stack) -> set[tuple[str, str]]:
    """Ask which backups lie off-site.

    Args:
        stack: whose.

    Returns:
        Host and id of each; nothing where no place is configured.

    Raises:
        EngineError: the place does not answer, or refuses.
    """
    if not stack.backup.offsite_repository:
        return set()
    with restic.opened(stack) as place:
        return {(one.host, one.backup) for one in offsite_place.whole(offsite_place.snapshots(place))}


def lies(away: Collection[tuple[str, str]], told: Mapping[str, Any]) -> bool:
    """Whether a backup of this host's folder is among those that :func:`listed` gives.

    Another host's of the same id is another one, unless that host made this one, and it was fetched.
    """
    return any((host, told["id"]) in away for host in (platform.node(), told["host"]))


def manifest_of(stack: Stack, wanted: str) -> Optional[dict[str, Any]]:
    """Read the manifest of a backup that lies off-site.

    Args:
        stack: whose.
        wanted: the backup's id; empty: the newest there that is not of what a restore has replaced, or was to. Where
            this host has none there, as one that has a new name, it is that of the only other host which has.

    Returns:
        The manifest with what :func:`backup.listed` adds, and the host; None where there is none of that id.

    Raises:
        EngineError: the place does not answer, the manifest is not what was written, or several other hosts have some
            there and this one has none.
    """
    if not stack.backup.offsite_repository:
        return None
    with restic.opened(stack) as place:
        if wanted:
            one = offsite_place.chosen(place, wanted)
            return _manifest(place, one) if one else None
        found = offsite_place.whole(offsite_place.snapshots(place))
        others = [one for one in found if not one.ours]
        newest = _newest(place, (one for one in found if one.ours))
        if newest or not others:
            return newest
        _demand_one_host(stack, others)
        return _newest(place, others)


def instead(stack: Stack, given: str, verb: str = "restore") -> str:
    """Say how the copy of a backup is taken that is damaged here; empty where none is known to lie off-site, or it is
    what was taken already.

    Args:
        stack: whose.
        given: the backup's id; its folder is here.
        verb: that the copy is fetched for.
    """
    folder = stack.root / backup.FOLDER
    damaged = folder / f"{_DAMAGED}{given}"
    with suppress(EngineError):
        if not damaged.exists() and manifest_of(stack, given):
            put_aside = f"sudo mv {folder / given} {damaged}    (on the host)"
            return f"{put_aside}, then: {stack.make(verb, f'BACKUP={given}')}    (fetches its copy from off-site)"
    return ""


@contextmanager
def copy_named(stack: Stack, found: Mapping[str, Any], verb: str) -> Iterator[None]:
    """Have it said of a backup whose files here are damaged how its copy is taken, as :func:`instead`.

    Args:
        stack: whose.
        found: the backup's manifest.
        verb: that the copy is fetched for.

    Raises:
        EngineError: as within the block.
    """
    try:
        yield
    except verification.DamagedError as error:
        remedy = instead(stack, str(found["id"]), verb) or error.remedy
        raise verification.DamagedError(error.code, error.problem, remedy) from error


def newest_away(stack: Stack) -> Optional[dict[str, Any]]:
    """Read the manifest of the newest that this host has put off-site and that does not lie here, as `manifest_of`."""
    if not stack.backup.offsite_repository:
        return None
    here = set(backup.names(stack.root))
    with restic.opened(stack) as place:
        found = offsite_place.whole(offsite_place.snapshots(place))
        return _newest(place, (one for one in found if one.ours and one.backup not in here))


def _newest(place: Place, found: Iterable[Snapshot]) -> Optional[dict[str, Any]]:
    for one in sorted(found, key=_made, reverse=True):
        told = _manifest(place, one)
        if told["kind"] != backup.SAFETY:
            return told
    return None


def _made(one: Snapshot) -> tuple[bool, float, str]:
    """Tell the order: ids go by the time, and what bears one that is still to come is of a clock that went wrong.

    A copy is made after its backup, so that the earlier of both times is the better one.
    """
    moment = one.begun
    with suppress(ValueError):
        moment = min(moment, backup.time_of(one.backup))
    return moment <= time.time() + _DAY, moment, one.backup


def _manifest(place: Place, one: Snapshot) -> dict[str, Any]:
    words = ("dump", "--no-lock", one.id, f"/{offsite_place.TOP}/{backup.MANIFEST}")
    # A host that asks for the first time reads the whole index of what lies there before that.
    said = place.demand(*words, limit=place.stack.backup.timeout_seconds)
    told = backup.read(said, one.backup)
    if told is None:
        problem = f"The manifest of backup {one.backup} off-site is not what was written. Nothing was changed."
        raise EngineError("offsite", problem, place.stack.make("backups") + "    (choose another)")
    return {**told, "host": told["host"] or one.host}


def _demand_one_host(stack: Stack, found: Iterable[Snapshot]) -> None:
    """Refuse to guess whose data this host shall have."""
    ids: dict[str, list[str]] = {}
    for one in sorted(found, key=_made, reverse=True):
        ids.setdefault(one.host, []).append(one.backup)
    if len(ids) > 1:
        lines = "\n".join(f"    {host}: {', '.join(given[:SHOWN])}" for host, given in sorted(ids.items()))
        raise EngineError(
            "offsite",
            f"No backup off-site is of this host ({platform.node()}), and several others have some there, the newest "
            f"first:\n{lines}\nNothing was changed.",
            f"name one of them: BACKUP=<id>    ({stack.make('backups')} lists all)",
        )


def bring(stack: Stack, report: Report, found: Mapping[str, Any]) -> None:
    """Bring a backup to this host that lies off-site only.

    What has come of it stays when that fails or is cut off: restic takes only the rest then (0.18; 0.14 all of it).

    Args:
        stack: whose; the host's lock is held.
        report: where progress is told.
        found: its manifest.

    Raises:
        EngineError: there is no room, the place does not answer, or what it gave is not whole.
    """
    given, folder = str(found["id"]), stack.root / backup.FOLDER
    if (folder / given).is_dir():
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = found.get("files") or {verification.DUMP: found}
    here = [one for name, one in files.items() if name != verification.DUMP or not found.get(dump_feed.SNAPSHOT)]
    media = {} if found.get(media_away.SNAPSHOT) else found.get("media") or {}
    size = sum(int(one["bytes"]) for one in here) + int(media.get("bytes", 0))
    new = folder / f"{backup_room.FETCHED}{given}"
    backup_room.remove_fetched(stack.root, but=new)
    new.mkdir(mode=0o700, exist_ok=True)
    come = sum(path.stat().st_blocks * 512 for path in new.rglob("*") if path.is_file())
    problem = f"Backup {given} of {size / 2**20:.0f} MiB would not fit."
    backup_room.demand_to_fetch(stack, folder, max(0, size - come), problem)
    try:
        with restic.opened(stack) as place:
            one = offsite_place.chosen(place, given)
            if one is None:
                raise EngineError("offsite", f"Backup {given} lies off-site no more.", stack.make("backups"))
            words = ["restore", "--no-lock", "--verify", "--target", str(new), one.id]
            report.say(f"    backup {given} is fetched from off-site, {size / 2**20:.0f} MiB …")
            place.demand(*words, limit=stack.backup.timeout_seconds)
        if not (new / offsite_place.TOP / backup.MANIFEST).is_file():
            raise EngineError("offsite", f"Copy {one.id} holds no backup {given}.", stack.make("backups"))
    except BaseException:
        if disk.problems([folder], stack.limits.min_free_bytes):
            backup_room.remove_fetched(stack.root)
        raise
    (new / offsite_place.TOP).rename(folder / given)
    releases.sync_folder(folder)
    shutil.rmtree(new)


def described(stack: Stack) -> Optional[dict[str, Any]]:
    """Give :func:`state` for a result; None where no place is configured."""
    return asdict(offsite_place.state(stack)) if stack.backup.offsite_repository else None


def line(told: Mapping[str, Any]) -> str:
    """Write for people what :func:`described` gives."""

    def ago(moment: float) -> str:
        return f"{duration(max(0.0, time.time() - moment))} ago"

    text = f"last copy {ago(told['good'])}" if told["good"] else "nothing was copied yet"
    if told["problem"]:
        text += f"; FAILED {ago(told['ended'])}: {told['problem'].splitlines()[0]}"
    if told["check_problem"]:
        text += f"; its check FAILED {ago(told['checked'])}: {told['check_problem'].splitlines()[0]}"
    elif told["checked"]:
        text += f"; read back {ago(told['checked'])}, good"
    return text


def _send(place: Place, report: Report, given: str) -> None:
    """Copy one backup."""
    stack = place.stack
    progress = streams.Progress(report, f"{given} copied off-site")
    done = offsite_place.send(place, stack.root / backup.FOLDER / given, given, progress)
    again = [one for one in offsite_place.state(stack).again if one != given]
    if done.code:
        # Its snapshot is there, and must not pass for a copy.
        offsite_place.note(stack, again=[*again, given] if done.code == restic.INCOMPLETE else again)
        raise place.failure("backup", done.said)
    now = time.time()
    offsite_place.note(stack, id=given, ended=now, good=now, problem="", again=again)
    report.say(f"    backup {given} was copied off-site")


def _demand_configured(stack: Stack) -> None:
    if not stack.backup.offsite_repository:
        problem = "No place off-site is configured (backup_offsite_repository)."
        raise EngineError("offsite", problem, f"set it in inventories/{stack.env}, then: {stack.make('deploy')}")
