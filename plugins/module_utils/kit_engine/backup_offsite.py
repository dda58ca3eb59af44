"""Copies of backups elsewhere, by restic: encrypted before they leave the host.

What is a copy of a backup on this host is never removed from here; what lies there only goes by retention.


Nothing here wants the host's lock: a copy may take hours, and a release must not wait for it. Copies of two runs wait
for each other.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

from kit_engine import backup, disk, dump_feed, media_away, offsite_place, releases, restic, streams, verification
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report, duration
from kit_engine.restic import Place
from kit_engine.stack import Stack

# One that comes back; not named as what is unfinished, which the next backup removes.
_FETCHED = ".fetched-"


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
                away = {one.backup for one in offsite_place.whole(found) if one.ours}
                for one in backup.listed(stack.root):
                    given = str(one["id"])
                    # What keeps no dump here lies there since it was made, or is no backup.
                    there = given in away and given not in offsite_place.state(stack).again
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
    """Have restic check the place, and read one part of its data, the next one each time.

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
        problem = ""
        try:
            # It may take hours, and changes nothing: a backup that is streamed meanwhile does not wait for it.
            words = ("check", "--no-lock", f"--read-data-subset={part}/{parts}")
            place.demand(*words, limit=stack.backup.timeout_seconds)
        except EngineError as error:
            problem = error.problem
            raise
        finally:
            with offsite_place.alone(stack, report):
                offsite_place.note(stack, part=part, checked=time.time(), check_problem=problem)
    report.say(f"    off-site: part {part} of {parts} was read, all of it is good")


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


def listed(stack: Stack) -> dict[str, str]:
    """Ask which backups lie off-site.

    Args:
        stack: whose.

    Returns:
        By the backup's id that of restic's snapshot, this host's own before another's; nothing where no place is
        configured.

    Raises:
        EngineError: the place does not answer, or refuses.
    """
    if not stack.backup.offsite_repository:
        return {}
    with restic.opened(stack) as place:
        return offsite_place.by_id(place)


def manifest_of(stack: Stack, wanted: str) -> Optional[dict[str, Any]]:
    """Read the manifest of a backup that lies off-site.

    Args:
        stack: whose.
        wanted: the backup's id; empty: the newest there that is not of what a restore has replaced, or was to.

    Returns:
        The manifest with what :func:`backup.listed` adds; None where there is none of that id.

    Raises:
        EngineError: the place does not answer, or the manifest is not what was written.
    """
    if not stack.backup.offsite_repository:
        return None
    with restic.opened(stack) as place:
        away = offsite_place.by_id(place)
        for given in [wanted] if wanted else sorted(away, reverse=True):
            if given not in away:
                break
            said = place.demand("dump", "--no-lock", away[given], f"/{offsite_place.TOP}/{backup.MANIFEST}")
            told = backup.read(said, given)
            if told is None:
                problem = f"The manifest of backup {given} off-site is not what was written. Nothing was changed."
                raise EngineError("offsite", problem, stack.make("backups") + "    (choose another)")
            if wanted or told["kind"] != backup.SAFETY:
                return told
    return None


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
    new = folder / f"{_FETCHED}{given}"
    forget(stack, but=new)
    new.mkdir(mode=0o700, exist_ok=True)
    come = sum(path.stat().st_blocks * 512 for path in new.rglob("*") if path.is_file())
    backup.demand_room(stack, folder, max(0, size - come), f"Backup {given} of {size / 2**20:.0f} MiB would not fit.")
    try:
        with restic.opened(stack) as place:
            snapshot = offsite_place.by_id(place)[given]
            words = ["restore", "--no-lock", "--verify", "--target", str(new), snapshot]
            report.say(f"    backup {given} is fetched from off-site, {size / 2**20:.0f} MiB …")
            place.demand(*words, limit=stack.backup.timeout_seconds)
        if not (new / offsite_place.TOP / backup.MANIFEST).is_file():
            raise EngineError("offsite", f"Copy {snapshot} holds no backup {given}.", stack.make("backups"))
    except BaseException:
        if disk.problems([folder], stack.limits.min_free_bytes):
            forget(stack)
        raise
    (new / offsite_place.TOP).rename(folder / given)
    releases.sync_folder(folder)
    new.rmdir()


def forget(stack: Stack, but: Optional[Path] = None) -> None:
    """Remove what has come of backups whose fetch did not end.

    Args:
        stack: whose; the host's lock is held.
        but: the folder of one that is fetched now.
    """
    for left in (stack.root / backup.FOLDER).glob(f"{_FETCHED}*"):
        if left != but:
            shutil.rmtree(left)


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
