"""A place of restic's as backups use it: what lies there, by the tags of its snapshots, and what is known of it here.

Every snapshot has the marks of its stack. One with ``id:<backup>`` is the folder of that backup, with its manifest, and
makes it count. Where the host keeps no dump, that lies in one of its own (``dump:<backup>``), and so do the media files
(``media:<backup>``); the folder's is marked by which of them it needs (``apart:<part>``).
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Optional

from kit_engine import releases, streams
from kit_engine.errors import EngineError
from kit_engine.report import Report
from kit_engine.restic import Moved, Place
from kit_engine.stack import Stack

RECORD, LOCK = "records/offsite.json", "records/offsite.lock"
# What is copied, as links that a retention which removes the backup meanwhile leaves alone.
COPYING = ".copying"
# What a backup is called in there. The same for all: restic compares a file with the one of that path in the last copy.
TOP = "backup"
FOLDER, DUMP, MEDIA = PARTS = ("id", "dump", "media")
# Of a folder, with a part that lies in a snapshot of its own.
_APART = "apart"
LOOK_SECONDS = 1.0


@dataclass
class State:
    """How the last copy ended.

    Attributes:
        id: of the backup that was copied last, or could not be.
        ended: when, in seconds since 1970; ``good``: when the last good one ended. 0 for never.
        problem: what was wrong; empty where nothing was.
        again: ids whose copy there is known to lack something.
        part: of the place's data that was read last and found good.
        checked: when something was checked there last, in seconds since 1970; ``check_problem``: what was wrong.
        loose: whether snapshots went whose data was not removed yet.
    """

    id: str = ""
    ended: float = 0.0
    good: float = 0.0
    problem: str = ""
    again: list[str] = field(default_factory=list)
    part: int = 0
    checked: float = 0.0
    check_problem: str = ""
    loose: bool = False


def state(stack: Stack) -> State:
    """Tell how the last copy ended."""
    try:
        told = json.loads((stack.root / RECORD).read_text(encoding="utf-8"))
        return State(**{name: told[name] for name in State.__dataclass_fields__ if name in told})
    except (OSError, ValueError, TypeError):
        return State()


def note(stack: Stack, **changed: Any) -> None:
    """Write down what changed of :class:`State`."""
    told = {**asdict(state(stack)), **changed}
    releases.replace(stack.root / RECORD, json.dumps(told, indent=2) + "\n")


@dataclass(frozen=True)
class Snapshot:
    """One of restic's.

    Attributes:
        id: restic's.
        part: what it holds, one of :data:`PARTS`.
        backup: of which.
        host: that made it.
        apart: parts that a folder needs, and that lie in snapshots of their own.
        begun: when it was, in seconds since 1970.
    """

    id: str
    part: str
    backup: str
    host: str
    apart: frozenset[str]
    begun: float

    @property
    def ours(self) -> bool:
        """Whether this host made it."""
        return self.host == platform.node()


def snapshots(place: Place) -> list[Snapshot]:
    """All of this stack's backups, the oldest first. Hosts of one environment may each have a database."""
    told = sorted(place.ask("snapshots", *marks(place.stack)) or (), key=lambda one: str(one["time"]))
    found = []
    for one in told:
        tags = [tag.partition(":") for tag in one.get("tags") or ()]
        apart = frozenset(part for name, _, part in tags if name == _APART)
        for part, _, given in tags:
            if part in PARTS:
                begun = _seconds(str(one["time"]))
                found.append(Snapshot(str(one["id"]), part, given, str(one["hostname"]), apart, begun))
    return found


def _seconds(moment: str) -> float:
    """Read a time as restic writes it, with nanoseconds and a zone, which Python reads from 3.11 on only."""
    zone = "+00:00" if moment.endswith("Z") else moment[-6:]
    return datetime.fromisoformat(moment[:19] + zone).timestamp()


def whole(found: Iterable[Snapshot]) -> list[Snapshot]:
    """Choose the folders of those that are whole: one whose dump or media files went from there is no backup."""
    found = list(found)
    there = {(one.host, one.backup, one.part) for one in found}
    folders = [one for one in found if one.part == FOLDER]
    return [one for one in folders if all((one.host, one.backup, part) in there for part in one.apart)]


def chosen(place: Place, given: str) -> Optional[Snapshot]:
    """Find the folder of a backup there: this host's own, else the one that another host has put there.

    Args:
        place: where.
        given: the backup's id.

    Returns:
        The newest snapshot of it; None where there is none.

    Raises:
        EngineError: this host has none of that id, and several others have.
    """
    by_host = {one.host: one for one in whole(snapshots(place)) if one.backup == given}
    own = by_host.get(platform.node())
    if own is None and len(by_host) > 1:
        raise EngineError(
            "offsite",
            f"Off-site several hosts have a backup {given}: {', '.join(sorted(by_host))}; this one ({platform.node()}) "
            "has none, and which of them it stands for is not known. Nothing was changed.",
            "sudo hostnamectl set-hostname NAME    (on the host, the name of that one), then repeat the command",
        )
    return own or next(iter(by_host.values()), None)


def newest(place: Place, part: str, given: str) -> str:
    """Give restic's id of what this host put there last.

    Args:
        place: where.
        part: one of :data:`PARTS`.
        given: the backup's id.

    Raises:
        EngineError: there is nothing.
    """
    found = [one.id for one in snapshots(place) if one.ours and (one.part, one.backup) == (part, given)]
    if not found:
        raise place.failure("backup", f"It ended well, and no snapshot {part}:{given} is there.")
    return found[-1]


def marks(stack: Stack) -> Sequence[str]:
    """What marks the backups of this stack among others in one place; a comma means both."""
    return ("--tag", f"project:{stack.project},env:{stack.env}")


def tagged(stack: Stack, part: str, given: str, apart: Iterable[str] = ()) -> list[str]:
    """Give the words by which restic marks a new snapshot.

    Args:
        stack: whose.
        part: one of :data:`PARTS`.
        given: the backup's id.
        apart: parts that it needs beside it.
    """
    words = ["--host", platform.node(), *marks(stack), "--tag", f"{part}:{given}"]
    return [*words, *(word for one in apart for word in ("--tag", f"{_APART}:{one}"))]


def send(place: Place, folder: Path, given: str, progress: streams.Progress, apart: Iterable[str] = ()) -> Moved:
    """Copy the folder of a backup there.

    Args:
        place: where to.
        folder: of the backup, which may not have its name yet.
        given: the backup's id.
        progress: told the bytes.
        apart: parts of it that lie there already.

    Returns:
        How restic ended.
    """
    links = folder.parent / COPYING
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir(mode=0o700)
    try:
        shutil.copytree(folder, links / TOP, copy_function=os.link)
        # A media file is named by its content: one that an earlier copy has is not read again.
        words = ["backup", *tagged(place.stack, FOLDER, given, apart)]
        return place.moved([*words, "--ignore-ctime", "--ignore-inode", TOP], links, progress)
    finally:
        shutil.rmtree(links, ignore_errors=True)


def demand_repository(place: Place) -> int:
    """Make the place ready where it is new; one that held copies before and is gone is never begun anew by itself.

    Args:
        place: which.

    Returns:
        The version of its format: from 2 on restic compresses.

    Raises:
        EngineError: it does not open.
    """
    try:
        said = place.demand("cat", "config", "--no-lock")
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
        said = place.demand("cat", "config", "--no-lock")
    try:
        return int(json.loads(said)["version"])
    except (ValueError, KeyError, TypeError):
        return 1


def forget(place: Place, ids: Sequence[str]) -> None:
    """Remove snapshots; their data goes when restic prunes.

    Args:
        place: where.
        ids: restic's.

    Raises:
        EngineError: it refuses, as where credentials may only add.
    """
    if ids:
        # Of a run of ours that was killed a lock may be left; those of others that are at work stay.
        place.demand("unlock")
        place.demand("forget", *ids)


@contextmanager
def alone(stack: Stack, report: Report) -> Iterator[None]:
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
