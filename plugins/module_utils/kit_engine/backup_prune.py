"""Which backups stay: scheduled ones of days, weeks and months, of every other kind a number of the last."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kit_engine import (
    backup,
    backup_notes,
    backup_room,
    backup_stream,
    media_away,
    releases,
    restore_media,
    verification,
)
from kit_engine.docker import Docker
from kit_engine.report import Report
from kit_engine.stack import Backups, Stack

# The last of each of these, in UTC, as strftime writes them: a week is that of ISO 8601.
_PERIODS = (("daily", "%Y-%m-%d"), ("weekly", "%G-W%V"), ("monthly", "%Y-%m"))
# Each of these is counted by itself: ten releases of one afternoon push nobody's own backup out.
_APART = {backup.RELEASE: "before a release", backup.SAFETY: "before a restore", backup.MANUAL: "made by hand"}


@dataclass(frozen=True)
class Plan:
    """What would become of the backups.

    Attributes:
        kept: why each that stays does, by its id.
        removed: ids of those that go, the newest first.
        unknown: folders that bear a backup's name and have no sound manifest, or were found to be bad: nobody but a
            person removes them.
    """

    kept: Mapping[str, str]
    removed: Sequence[str]
    unknown: Sequence[str]


def planned(found: Iterable[Mapping[str, Any]], keep: Backups, folders: Iterable[str] = ()) -> Plan:
    """Choose which backups stay.

    Args:
        found: manifests, the newest first, as ``backup.listed`` gives them.
        keep: how many.
        folders: names of all that lies beside them.

    Returns:
        The plan; the newest good one always stays.
    """
    good = [one for one in found if not one["problem"]]
    kept = {str(one["id"]): "the newest" for one in good[:1]}
    for kind, why in _APART.items():
        for one in [one for one in good if one["kind"] == kind][: keep.keep_releases]:
            kept.setdefault(str(one["id"]), why)
    timed = [one for one in good if one["kind"] not in _APART]
    for name, pattern in _PERIODS:
        number, seen = getattr(keep, f"keep_{name}"), set[str]()
        for one in timed:
            period = time.strftime(pattern, time.gmtime(float(one["made"])))
            if period in seen or len(seen) == number:
                continue
            seen.add(period)
            kept.setdefault(str(one["id"]), f"{name}, {period}")
    known = {str(one["id"]) for one in good}
    return Plan(
        kept, [str(one["id"]) for one in good if one["id"] not in kept], sorted(set(folders) - known, reverse=True)
    )


def plan(stack: Stack) -> Plan:
    """Choose which backups of this host stay, as :func:`planned`."""
    return planned(backup.listed(stack.root), stack.backup, backup.names(stack.root))


def prune(stack: Stack, report: Report) -> Plan:
    """Remove what need not stay; the caller has just made a backup and verified it.

    Args:
        stack: whose; the host's lock is held.
        report: where it is told.

    Returns:
        What was done.
    """
    done = plan(stack)
    remove(stack, done.removed)
    if done.removed:
        report.say(f"    {len(done.removed)} old backups were removed, {len(done.kept)} are kept")
    return done


def remove(stack: Stack, ids: Sequence[str]) -> None:
    """Remove backups: each loses its name first, so that one that is half gone is none.

    Args:
        stack: whose; the host's lock is held.
        ids: which.
    """
    folder = stack.root / backup.FOLDER
    backup_stream.leave(stack, (one for one in backup.listed(stack.root) if one["id"] in ids))
    for one in ids:
        going = folder / f"{backup.UNFINISHED}{one}"
        (folder / one).rename(going)
        releases.sync_folder(folder)
        shutil.rmtree(going)


def prune_verb(docker: Docker, arguments: argparse.Namespace) -> None:
    """Remove the backups that need not be kept, or tell which these are."""
    stack, dry = docker.stack, arguments.dry_run
    newest = backup.newest(stack.root)
    if newest and not dry:
        backup.remove_unfinished(stack.root)
        # The others go because of it.
        folder = stack.root / backup.FOLDER / newest["id"]
        with backup_notes.judged(folder, newest):
            verification.checksum(docker, folder, newest)
            media_away.demand_there(docker, newest)
    done = plan(stack)
    if not dry:
        remove(stack, done.removed)
        backup_room.remove_fetched(stack.root)
        backup_stream.clear_now(stack, arguments.report, stack.root / backup.FOLDER)
        if stack.backed_up:
            restore_media.forget(docker, stack.backed_up)
    lines = [f"kept     {one}    ({why})" for one, why in sorted(done.kept.items(), reverse=True)]
    lines += [f"{'would go' if dry else 'removed '} {one}" for one in done.removed]
    lines += [f"left     {one}    (not a good backup: judge it yourself)" for one in done.unknown]
    told = {"kept": dict(done.kept), "removed": list(done.removed), "unknown": list(done.unknown), "dry_run": dry}
    arguments.report.done({"changed": bool(done.removed) and not dry, **told}, "\n".join(lines) or "No backup yet.")
