"""Which releases there are, which one a rollback goes to, and which are kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

from kit_engine import command, pending, releases, runlog
from kit_engine.docker import image_id
from kit_engine.errors import EngineError
from kit_engine.releases import Record
from kit_engine.report import columns

# Records are small and tell what happened; the bundles and images that they speak of go earlier.
KEPT_RECORDS = 100
# The app's images that were brought here: a deploy may end before a record names its own.
BROUGHT = "app-images.json"
# Removing one takes a second; on a slow disk with other work, minutes.
REMOVE_SECONDS = 120.0
# Of a container: the folder that its Compose project stands in, two below the deploy root.
_STANDS_IN = '{{.Label "com.docker.compose.project.working_dir"}}'


def records(root: Path) -> list[Record]:
    """Read the records of all releases, the newest first."""
    found = [record for record in (releases.read(root, path.stem) for path in _paths(root)) if record]
    return sorted(found, key=lambda record: (record.started, record.id), reverse=True)


def target(root: Path, wanted: str) -> Record:
    """Choose the release that a rollback goes to.

    Args:
        root: the deploy root.
        wanted: its id; empty: the last good one before the one that serves.

    Returns:
        Its record; of one that is named, it may be the one that serves already.

    Raises:
        EngineError: there is none, it is not known to be good, or it is not whole on this host any more.
    """
    served = releases.current(root)
    rows = records(root)
    usable = [row for row in rows if row.state == "good" and row.id != served and not lacking(root, row)]
    known = f" Good ones: {', '.join(row.id for row in usable[:5])}." if usable else ""
    if not wanted:
        live = next((row for row in rows if row.id == served), None)
        before = [row for row in usable if live is None or (row.started, row.id) < (live.started, live.id)]
        if not before:
            raise _refused(root, f"No good release is left here from before {served or 'the first'}.{known}")
        return before[0]
    record = next((row for row in rows if row.id == wanted), None)
    if record is None:
        raise _refused(root, f"There is no release {wanted} on this host.{known}")
    if record.state not in ("good", "rolled_back"):
        raise _refused(root, f"Release {wanted} is {record.state}: {record.reason or 'no gate judged it'}.{known}")
    problem = lacking(root, record)
    if problem:
        raise _refused(root, f"Release {wanted} cannot come back: {problem}.{known}")
    return record


def lacking(root: Path, record: Record) -> str:
    """Tell what a release lacks on this host to serve again; empty where it is whole."""
    if not (root / releases.FOLDER / record.id).is_dir():
        return "its files were removed by retention"
    there = image_id(record.image)
    if not there:
        return f"its image {record.image} is not on this host any more"
    if record.image_id and there != record.image_id:
        return f"the name {record.image} stands for another image now"
    return ""


def migrations_after(root: Path, release: str) -> list[str]:
    """List the migrations that releases newer than one applied, whatever became of them: its code knows none of them.

    Args:
        root: the deploy root.
        release: its id.

    Returns:
        Them in the order they were applied; those that a restore undid are among them.
    """
    rows = records(root)
    newer = rows[: next((number for number, row in enumerate(rows) if row.id == release), 0)]
    return list(dict.fromkeys(name for row in reversed(newer) for name in row.migrations))


def prune(root: Path, keep: int) -> tuple[list[str], list[str]]:
    """Remove the bundles and images of old releases; never a volume, and never what serves.

    Args:
        root: the deploy root.
        keep: how many good ones stay besides the one that serves. The newest stays whatever became of it: it is looked
            at, and its image is what the next try needs.

    Returns:
        Ids of those that were removed, and why images stay that were to go: the next time tries those again.

    Raises:
        EngineError: the engine does not answer; nothing more was removed.
    """
    rows = records(root)
    served = releases.current(root)
    under_way = pending.read(root)
    kept = {served, *(row.id for row in rows[:1]), *((under_way.id, under_way.previous) if under_way else ())}
    for state in ("good", "rolled_back"):
        # One at least of those that a rollback may go to, or there would be nothing to go back to.
        kept |= {row.id for row in [row for row in rows if row.state == state and row.id not in kept][: max(1, keep)]}
    gone = []
    left = _drop_images(root, rows, {row.image for row in rows if row.id in kept})
    for row in rows:
        folder = root / releases.FOLDER / row.id
        if row.id not in kept and folder.is_dir():
            shutil.rmtree(folder)
            gone.append(row.id)
    for row in rows[KEPT_RECORDS:]:
        if row.id not in kept:
            for kind in ("json", runlog.JOURNAL, runlog.LOG):
                runlog.path_of(root, row.id, kind).unlink(missing_ok=True)
    return gone, left


def bring(root: Path, refs: Iterable[str]) -> None:
    """Note the app's images that are about to be brought to this host.

    Args:
        root: the deploy root.
        refs: their names.
    """
    known = _brought(root)
    new = [ref for ref in refs if ref not in known]
    if new:
        (root / releases.RECORDS).mkdir(parents=True, exist_ok=True)
        releases.replace(root / releases.RECORDS / BROUGHT, json.dumps([*known, *new]) + "\n")


def drop_unnamed(root: Path, refs: Collection[str]) -> list[str]:
    """Remove the app's images of deploys that ended before a release named them.

    Args:
        root: the deploy root.
        refs: images of the deploy that is under way.

    Returns:
        Why images stay that were to go.

    Raises:
        EngineError: the engine does not answer.
    """
    rows = records(root)
    return _drop_images(root, rows, {*refs, *(row.image for row in rows if _stands(root, row))})


def _drop_images(root: Path, rows: Sequence[Record], kept: Collection[str]) -> list[str]:
    """Remove the app's images that came for this deploy root, but for some; gives why others stay.

    Those that another stack's releases name, as another environment of the project may, are left to that one.
    """
    brought = _brought(root)
    old = sorted({ref for ref in (*brought, *(row.image for row in rows)) if ref} - {*kept})
    if not old:
        return []
    there = _lines("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
    others = _named_elsewhere(root)
    waiting = [ref for ref in old if ref in there and ref not in others]
    problems = []
    for ref in list(waiting):
        try:
            problem = _drop(ref)
        except EngineError as error:
            # The engine answers too late: the others would wait as long.
            problems.append(error.problem)
            break
        if problem:
            problems.append(problem)
        else:
            waiting.remove(ref)
    still = [ref for ref in brought if ref in kept or ref in waiting]
    if still != brought:
        releases.replace(root / releases.RECORDS / BROUGHT, json.dumps(still) + "\n")
    return problems


def _drop(ref: str) -> str:
    """Remove an image; why it stays, or nothing."""
    told = command.run(["docker", "image", "inspect", "--format", "{{range .RepoDigests}}{{.}} {{end}}", ref])
    name = ref.partition(":")[0]
    # By these it was pulled from a registry, and would stay. Before the tag: that is what the next time finds it by.
    pulled = [one for one in told.out.split() if one.partition("@")[0].endswith(f"/{name}")]
    done = command.run(["docker", "image", "rm", *pulled, ref], limit=REMOVE_SECONDS)
    return f"{ref}: {done.err.strip()}" if done.code and image_id(ref) else ""


def _named_elsewhere(root: Path) -> set[str]:
    """The images that releases of the other stacks on this host name."""
    places = {Path(line).parent.parent.resolve() for line in _lines("docker", "ps", "--all", "--format", _STANDS_IN)}
    return {row.image for place in places - {root.resolve()} for row in records(place) if _stands(place, row)}


def _lines(*words: str) -> list[str]:
    done = command.demand(words, code="images", remedy="docker info    (does the engine answer?)")
    return [line for line in done.out.splitlines() if line]


def _brought(root: Path) -> list[str]:
    try:
        told = json.loads((root / releases.RECORDS / BROUGHT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [str(ref) for ref in told] if isinstance(told, list) else []


def _stands(root: Path, row: Record) -> bool:
    """Whether a release's files are here; of another user's stack they count as that."""
    try:
        return (root / releases.FOLDER / row.id).is_dir()
    except PermissionError:
        return True


def rows(root: Path) -> list[dict[str, Any]]:
    """Describe each release for a list: its record, whether it serves, and its state as of now."""
    served, under_way = releases.current(root), pending.read(root)
    told = []
    for record in records(root):
        row = {**asdict(record), "serves": record.id == served, "bytes": _size(root / releases.FOLDER / record.id)}
        if record.state in ("running", "live") and (under_way is None or under_way.id != record.id):
            row["state"] = "abandoned"
        told.append(row)
    return told


def unreadable(root: Path) -> list[str]:
    """Name the records that are none, and why: their releases are left alone, and nothing goes back to them."""
    told = []
    for path in _paths(root):
        try:
            releases.load(path)
        except (OSError, ValueError) as error:
            told.append(f"{path}: {error}")
    return told


def table(told: Sequence[dict[str, Any]]) -> str:
    """Write the list for people."""
    if not told:
        return "No release yet."
    head = ("", "id", "ref", "who", "started", "seconds", "state", "backup", "size")
    lines = [head]
    for row in told:
        backup = str(row["backup"].get("id", "")) or "-"
        lines.append(
            ("*" if row["serves"] else "", row["id"], row["ref"] or "-", row["who"], row["started"],
             f"{sum(row['seconds'].values()):.1f}", row["state"], backup, f"{row['bytes'] / 1024:.0f} KiB")
        )  # fmt: skip
    return "\n".join(columns(lines))


def _paths(root: Path) -> list[Path]:
    return sorted((root / releases.RECORDS).glob("[0-9]*Z-*.json"))


def _refused(root: Path, problem: str) -> EngineError:
    env = _env(root)
    return EngineError("rollback", f"{problem} Nothing was changed.", f"make releases ENV={env}")


def _env(root: Path) -> str:
    record: Optional[Record] = next(iter(records(root)), None)
    return record.env if record else "<environment>"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
