"""Copies of backups elsewhere, by restic: encrypted before they leave the host, and never removed from here.

Nothing here wants the host's lock: a copy may take hours, and a release must not wait for it. Copies of two runs wait
for each other.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from kit_engine import backup, releases, restic, streams, verification
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report, duration
from kit_engine.restic import Place
from kit_engine.stack import Stack

RECORD, LOCK = "records/offsite.json", "records/offsite.lock"
# What is copied, as links that a retention which removes the backup meanwhile leaves alone.
COPYING = ".copying"
# One that comes back.
_FETCHING = f"{backup.UNFINISHED}fetched-"
_ID = "id:"
# What a backup is called in there. The same for all: restic compares a file with the one of that path in the last copy.
_TOP = "backup"
LOOK_SECONDS = 1.0


@dataclass
class State:
    """How the last copy ended.

    Attributes:
        id: of the backup that was copied last, or could not be.
        ended: when, in seconds since 1970; ``good``: when the last good one ended. 0 for never.
        problem: what was wrong; empty where nothing was.
        again: ids whose copy there is known to lack something.
        part: of the place's data that was read last by a check, and ``checked`` when; ``check_problem`` what it found.
    """

    id: str = ""
    ended: float = 0.0
    good: float = 0.0
    problem: str = ""
    again: list[str] = field(default_factory=list)
    part: int = 0
    checked: float = 0.0
    check_problem: str = ""


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
    with _alone(stack, report):
        given = ""
        try:
            with restic.opened(stack) as place:
                _demand_repository(place)
                away = {one.backup for one in _snapshots(place) if one.host == platform.node()}
                for one in backup.listed(stack.root):
                    given = str(one["id"])
                    if one["problem"] or (given in away and given not in state(stack).again):
                        continue
                    _send(place, report, given)
                    copied.append(given)
        except (EngineError, OSError) as error:
            problem = error.problem if isinstance(error, EngineError) else str(error)
            _note(stack, id=given, ended=time.time(), problem=problem)
            if isinstance(error, EngineError):
                raise
            raise EngineError("offsite", problem, stack.make("copy-offsite")) from error
        _note(stack, ended=time.time(), good=time.time(), problem="")
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
    with _alone(stack, report), restic.opened(stack) as place:
        part = state(stack).part % parts + 1
        problem = ""
        try:
            words = ("check", "--no-lock", f"--read-data-subset={part}/{parts}")
            place.demand(*words, limit=stack.backup.timeout_seconds)
        except EngineError as error:
            problem = error.problem
            raise
        finally:
            _note(stack, part=part, checked=time.time(), check_problem=problem)
    report.say(f"    off-site: part {part} of {parts} was read, all of it is good")


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
        return _by_id(place)


def manifest_of(stack: Stack, wanted: str) -> Optional[dict[str, Any]]:
    """Read the manifest of a backup that lies off-site.

    Args:
        stack: whose.
        wanted: the backup's id; empty: the newest there.

    Returns:
        The manifest with what :func:`backup.listed` adds; None where there is none of that id.

    Raises:
        EngineError: the place does not answer, or the manifest is not what was written.
    """
    if not stack.backup.offsite_repository:
        return None
    with restic.opened(stack) as place:
        away = _by_id(place)
        given = wanted or max(away, default="")
        if given not in away:
            return None
        said = place.demand("dump", "--no-lock", away[given], f"/{_TOP}/{backup.MANIFEST}")
    told = backup.read(said, given)
    if told is None:
        problem = f"The manifest of backup {given} off-site is not what was written. Nothing was changed."
        raise EngineError("offsite", problem, stack.make("backups") + "    (choose another)")
    return told


def bring(stack: Stack, report: Report, found: Mapping[str, Any]) -> None:
    """Bring a backup to this host that lies off-site only.

    Args:
        stack: whose.
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
    size = sum(int(one["bytes"]) for one in files.values()) + int((found.get("media") or {}).get("bytes", 0))
    backup.demand_room(stack, folder, size, f"Backup {given} of {size / 2**20:.0f} MiB would not fit.")
    new = folder / f"{_FETCHING}{os.getpid()}"
    new.mkdir(mode=0o700)
    try:
        with restic.opened(stack) as place:
            snapshot = _by_id(place)[given]
            words = ["restore", "--no-lock", "--verify", "--target", str(new), snapshot]
            report.say(f"    backup {given} is fetched from off-site, {size / 2**20:.0f} MiB …")
            place.demand(*words, limit=stack.backup.timeout_seconds)
        if not (new / _TOP / backup.MANIFEST).is_file():
            raise EngineError("offsite", f"Copy {snapshot} holds no backup {given}.", stack.make("backups"))
        (new / _TOP).rename(folder / given)
        releases.sync_folder(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def state(stack: Stack) -> State:
    """Tell how the last copy ended."""
    try:
        told = json.loads((stack.root / RECORD).read_text(encoding="utf-8"))
        return State(**{name: told[name] for name in State.__dataclass_fields__ if name in told})
    except (OSError, ValueError, TypeError):
        return State()


def described(stack: Stack) -> Optional[dict[str, Any]]:
    """Give :func:`state` for a result; None where no place is configured."""
    return asdict(state(stack)) if stack.backup.offsite_repository else None


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
    folder = stack.root / backup.FOLDER
    links = folder / COPYING
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir(mode=0o700)
    try:
        shutil.copytree(folder / given, links / _TOP, copy_function=os.link)
        words = ["backup", "--host", platform.node(), *_marks(stack), "--tag", f"{_ID}{given}"]
        # A media file is named by its content: one that an earlier copy has is not read again.
        words += ["--ignore-ctime", "--ignore-inode", _TOP]
        code, said = place.moved(words, links, streams.Progress(report, f"{given} copied off-site"))
    finally:
        shutil.rmtree(links, ignore_errors=True)
    again = [one for one in state(stack).again if one != given]
    if code:
        # Its snapshot is there, and must not pass for a copy.
        _note(stack, again=[*again, given] if code == restic.INCOMPLETE else again)
        raise place.failure("backup", said)
    now = time.time()
    _note(stack, id=given, ended=now, good=now, problem="", again=again)
    report.say(f"    backup {given} was copied off-site")


@dataclass(frozen=True)
class _Snapshot:
    """One of restic's: its id, the backup that it is a copy of, and the host that made it."""

    id: str
    backup: str
    host: str


def _snapshots(place: Place) -> list[_Snapshot]:
    """All copies of this stack's backups, the oldest first. Hosts of one environment may each have a database."""
    told = sorted(place.ask("snapshots", *_marks(place.stack)) or (), key=lambda one: str(one["time"]))
    return [
        _Snapshot(str(one["id"]), tag[len(_ID) :], str(one["hostname"]))
        for one in told
        for tag in one.get("tags") or ()
        if tag.startswith(_ID)
    ]


def _by_id(place: Place) -> dict[str, str]:
    found = sorted(_snapshots(place), key=lambda one: one.host == platform.node())
    return {one.backup: one.id for one in found}


def _marks(stack: Stack) -> Sequence[str]:
    """What marks the backups of this stack among others in one place; a comma means both."""
    return ("--tag", f"project:{stack.project},env:{stack.env}")


def _demand_repository(place: Place) -> None:
    """Make the place ready where it is new; one that held copies before and is gone is never begun anew by itself."""
    try:
        place.demand("cat", "config", "--no-lock")
    except EngineError as error:
        record = place.stack.root / RECORD
        if state(place.stack).good:
            remedy = f"{error.remedy}; where it shall begin anew without them: sudo rm {record}    (on the host)"
            problem = f"The place that holds copies does not open any more. {error.problem}"
            raise EngineError("offsite", problem, remedy) from None
        # Where it is one already, this changes nothing: then the first answer says what is wrong.
        try:
            place.demand("init")
        except EngineError:
            raise error from None


def _demand_configured(stack: Stack) -> None:
    if not stack.backup.offsite_repository:
        problem = "No place off-site is configured (backup_offsite_repository)."
        raise EngineError("offsite", problem, f"set it in inventories/{stack.env}, then: {stack.make('deploy')}")


@contextmanager
def _alone(stack: Stack, report: Report) -> Iterator[None]:
    """Wait for another run's copy."""
    path = stack.root / LOCK
    end, told = time.monotonic() + stack.backup.timeout_seconds, False
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > end:
                    problem = "Another copy off-site has been under way for longer than backup_timeout_seconds."
                    raise EngineError("offsite", problem, "ps aux | grep restic    (on the host)") from None
            if not told:
                report.say("    waiting for another copy off-site …")
                told = True
            time.sleep(LOOK_SECONDS)
        yield


def _note(stack: Stack, **changed: Any) -> None:
    told = {**asdict(state(stack)), **changed}
    releases.replace(stack.root / RECORD, json.dumps(told, indent=2) + "\n")
