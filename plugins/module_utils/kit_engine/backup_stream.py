"""A backup that keeps no dump on this host: pg_dump's output goes to restic as it comes, and the media files after it.

Both lie off-site in snapshots of their own, which count for nothing until the backup's folder, with the manifest that
names them, is there too. What a run that failed has left of them goes with the next one.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Optional

from kit_engine import backup_dump, dump_feed, media_away, offsite_place, pipes, releases, restic, streams
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.offsite_place import DUMP, FOLDER
from kit_engine.report import Report
from kit_engine.stack import Database, Stack
from kit_engine.verification import DUMP as DUMP_FILE

# Ids of backups whose snapshots have still to go unless their folder is here: retention removed it, or it has not got
# its name yet. Written under the host's lock.
LEAVING = "records/offsite_leaving.json"
# From this version on of its format restic compresses.
_COMPRESSES = 2


@dataclass(frozen=True)
class Away:
    """The place that a backup is streamed to.

    Attributes:
        docker: the stack's containers.
        place: where.
        report: where progress is told.
        given: the backup's id.
        compresses: whether restic does.
        media_folder: of the media files; None where there are none.
    """

    docker: Docker
    place: restic.Place
    report: Report
    given: str
    compresses: bool
    media_folder: Optional[Path]

    def client(self, found: backup_dump.Client) -> backup_dump.Client:
        """Choose how the dump is compressed: of one that is not, restic sends only what changed since the last."""
        return replace(found, compression=backup_dump.NONE) if self.compresses else found

    def dump(
        self, server: Container, wanted: Database, moment: backup_dump.Snapshot, client: backup_dump.Client, total: int,
        look: Callable[[], None],
    ) -> dict[str, Any]:  # fmt: skip
        """Stream the dump.

        Args:
            server: of the database.
            wanted: the database.
            moment: which is dumped.
            client: what dumps it.
            total: bytes that it will be, about.
            look: called about once a second; what it raises ends the dump.

        Returns:
            Its ``bytes`` and ``sha256``, and restic's id of it.

        Raises:
            EngineError: pg_dump or restic failed; there is no snapshot of what there was until then.
        """
        words = backup_dump.words_for(wanted, moment, client)
        tags = offsite_place.tagged(self.place.stack, DUMP, self.given)
        ended = pipes.joined(
            pipes.Program(backup_dump.low(server, words)),
            self.place.program("backup", "--json", *tags, "--stdin", "--stdin-filename", DUMP_FILE),
            limit=self.place.stack.backup.timeout_seconds,
            progress=streams.Progress(self.report, "dumped off-site", total, about=True),
            look=look,
        )
        if ended.wrong == 1 or not ended.size:
            raise backup_dump.failed(self.docker, wanted, words, ended.codes[0], ended.said[0])
        if ended.wrong or not ended.taken:
            raise self.place.failure("backup", ended.said[1])
        snapshot = offsite_place.newest(self.place, DUMP, self.given)
        return {"bytes": ended.size, "sha256": ended.sha256, dump_feed.SNAPSHOT: snapshot}

    def media(self) -> dict[str, Any]:
        """Back the media files up; gives what the manifest says of them, and raises as :meth:`dump`."""
        if self.media_folder is None:
            return {"media": None}
        media, snapshot = media_away.send(self.place, self.report, self.media_folder, self.given)
        return {"media": asdict(media), media_away.SNAPSHOT: snapshot}

    def keep(self, folder: Path, told: Mapping[str, Any]) -> None:
        """Put the backup's folder there, by which all of it counts.

        Args:
            folder: with the manifest.
            told: what that says.

        Raises:
            EngineError: that failed, or what it needs beside it went meanwhile.
        """
        progress = streams.Progress(None, "")
        needed = media_away.apart(told)
        done = offsite_place.send(self.place, folder, self.given, progress, apart=needed)
        if done.code:
            raise self.place.failure("backup", done.said)
        gone = media_away.lacking(self.place, needed)
        if gone:
            problem = f"Snapshot {gone[0]}:{self.given} was removed off-site while the backup was made. "
            problem += f"Another machine of this host's name ({platform.node()}) may have taken it for its own."
            raise EngineError("offsite", problem, self.place.stack.make("backup"))
        now = time.time()
        offsite_place.note(self.place.stack, id=self.given, ended=now, good=now, problem="")


@contextmanager
def opened(docker: Docker, report: Report, given: str, folder: Path) -> Iterator[Away]:
    """Open the place for a new backup, and clear away there what is none.

    The backup's folder gets its name within the block; of one that never does nothing stays there either.

    Args:
        docker: the stack's containers; the host's lock is held.
        report: where progress is told.
        given: the backup's id.
        folder: of this host's backups.

    Raises:
        EngineError: the place does not answer, or did not to the end of the block; the message says that there is no
            backup then.
    """
    stack = docker.stack
    media = media_away.folder_of(docker)
    try:
        with offsite_place.alone(stack, report), restic.opened(stack) as place:
            version = offsite_place.demand_repository(place)
            clear(place, report, folder)
            place.demand_free(report)
            _write(stack, [*_leaving(stack), given])
            yield Away(docker, place, report, given, version >= _COMPRESSES, media)
            _write(stack, [one for one in _leaving(stack) if one != given])
    except EngineError as error:
        if error.code not in ("offsite", "timeout"):
            raise
        offsite_place.note(stack, id=given, ended=time.time(), problem=error.problem)
        problem = f"{error.problem}\nbackup_local_copy is false, so without off-site there is no backup at all. "
        remedy = f"mend what is named above, then: {stack.make('backup')}"
        raise EngineError("offsite", f"{problem}Nothing was changed.", remedy) from error


def leave(stack: Stack, found: Iterable[Mapping[str, Any]]) -> None:
    """Note that backups go whose dumps lie off-site only: their snapshots go with the next backup.

    Args:
        stack: whose; the host's lock is held.
        found: their manifests.
    """
    ids = [str(one["id"]) for one in found if one.get(dump_feed.SNAPSHOT)]
    if ids:
        _write(stack, [*_leaving(stack), *ids])


def clear_now(stack: Stack, report: Report, folder: Path) -> None:
    """Remove off-site what retention removed here; the arguments and the rest are those of :func:`clear`."""
    if _leaving(stack):
        with offsite_place.alone(stack, report), restic.opened(stack) as place:
            clear(place, report, folder)


def clear(place: restic.Place, report: Report, folder: Path) -> None:
    """Remove snapshots that are of no use any more, of this host alone.

    A dump or media files without a folder may be what a machine of the same name is just sending: they stay for as
    long as that may take, unless they are known to be of this host.

    Args:
        place: where; no other run of this host is at work there, and the host's lock is held.
        report: where it is told that the place refuses; the next backup tries again.
        folder: of this host's backups.
    """
    stack = place.stack
    found = [one for one in offsite_place.snapshots(place) if one.ours]
    kept = {one.backup for one in found if one.part == FOLDER}
    # One whose folder is here was noted by a run that was cut off: before it removed it, or after it was made.
    gone = {one for one in _leaving(stack) if not (folder / one).is_dir()}
    old = time.time() - stack.backup.timeout_seconds
    loose = [one for one in found if one.part != FOLDER and one.backup not in kept and one.begun < old]
    going = [one.id for one in found if one.backup in gone or one in loose]
    try:
        offsite_place.forget(place, going)
    except EngineError as error:
        left = f"{len(going)} snapshots off-site that need not stay could not be removed"
        report.say(f"    warning: {left}: {error.problem}")
        return
    if going:
        offsite_place.note(stack, loose=True)
    _write(stack, [])


def _leaving(stack: Stack) -> list[str]:
    try:
        return [str(one) for one in json.loads((stack.root / LEAVING).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def _write(stack: Stack, ids: list[str]) -> None:
    path = stack.root / LEAVING
    if ids:
        releases.replace(path, json.dumps(ids) + "\n")
    else:
        path.unlink(missing_ok=True)
