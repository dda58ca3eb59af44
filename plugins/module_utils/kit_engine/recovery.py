"""What becomes of a release that did not come to its end: it failed after the switch, or its run was cut off."""

from __future__ import annotations

import argparse
import shutil
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Optional

from kit_engine import edge, ending, masking, one_off, pending, release, releases, restore_media, rollout
from kit_engine import stack as stacks
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.pending import DEPLOY, RESTORE, ROLLBACK, Pending
from kit_engine.report import Report
from kit_engine.stack import Stack

# What a release is found by not to get ready, and the steps in which it is the release that is judged: in those before,
# the host or what the app stands on may be why.
VERDICTS, JUDGED = ("not_ready", "unhealthy", "migrate"), ("healthy", "migrate", "ready")


class UnfitError(EngineError):
    """A release does not get ready although the host did all that was asked of it: to repeat that helps nothing."""


def recover_verb(arguments: argparse.Namespace) -> None:
    """Make whole what an earlier run left, and do nothing else; on a host that has no current release yet, too."""
    report: Report = arguments.report
    text = recover(arguments.root.resolve(), report)
    report.done({"changed": bool(text), "message": text}, text or "Nothing is under way.")


def recover(root: Path, report: Optional[Report] = None) -> str:
    """Bring the host to a whole state if an earlier run was cut off; to be called with the host's lock held.

    Before the switch the release that served before goes on alone. After it the new one serves, and what was left to do
    for that is done; its record says that no smoke gate judged it, and the next deploy brings it up again, judged, or
    another one. A release that does not get ready any more is told of and left: what comes next is what helps then.

    Args:
        root: the deploy root.
        report: of the verb that found it; default: nobody reads along.

    Returns:
        A sentence about what was done; empty where nothing was under way.

    Raises:
        EngineError: the host could not do what it takes, such as without its Docker engine; the next run tries again.
    """
    for leftover in (root / releases.FOLDER).glob(".incoming-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    found = pending.read(root)
    if found is None:
        return ""
    # What cannot be brought to serve is told with the last words of its containers, and the record keeps that.
    mask = masking.of(docker_of(root, found.id))
    report = report or Report("recover", as_json=False, stream=StringIO())
    apart = report.apart("recover")
    report.say(f"    the {found.kind} of release {found.id} was cut off; the host is made whole first")
    # First: what a killed client left goes on, a migration above all.
    one_off.remove_left(docker_of(root, found.id))
    ending.remove_half_made(docker_of(root, found.id))
    # Of the two links of the switch nginx follows the first.
    switched = releases.current(root) == found.id or _leads_to(docker_of(root, found.id).stack)
    if found.kind == RESTORE:
        # One database bears the name, the old one or the restored. The media files follow it before anybody writes to
        # them: what is uploaded beside the new rows would go with the old files.
        docker = docker_of(root, found.id)
        if restore_media.is_unsettled(root):
            rollout.stand(docker)
            restore_media.settle(docker, docker.stack.backed_up)
        text = f"a restore was cut off; release {found.id} serves the database that bears its name"
        try:
            _serve(root, found.id, apart)
        except EngineError as error:
            # Its code may be newer than the rows. What comes next is what helps then: a rollback, a deploy, a restore.
            text = (
                f"a restore was cut off; release {found.id} does not get ready on what it left: {mask(error.problem)}"
            )
    elif switched:
        try:
            _serve(root, found.id, apart)
            text = f"release {found.id} serves; its run was cut off before the smoke gate"
        except EngineError as error:
            text = f"release {found.id} was cut off, and could not be brought to serve: {mask(error.problem)}"
            try:
                go_back(root, found, report, text)
            except UnfitError as second:
                text += mask(_neither(root, found, second))
                pending.end(root)
                report.say(f"    {text}")
            return text
    else:
        text = f"the run was cut off before release {found.id} served"
        new = docker_of(root, found.id)
        rollout.give_up(new, None)
        try:
            if found.previous:
                _serve(root, found.previous, apart)
        except UnfitError as error:
            text += mask(_neither(root, found, error))
            old = docker_of(root, found.previous)
            if old.stack.rolls:
                # As after one that failed: it goes on as it is, with all that it stands on.
                rollout.give_up(new, old)
    if found.kind == ROLLBACK and switched:
        leave(root, found)
    record = releases.read(root, found.id)
    # A good one was only being brought up again, or had just passed its gate.
    if found.kind == DEPLOY and record and record.state != "good":
        record.state, record.reason, record.finished = "abandoned", text, releases.now()
        releases.write(root, record)
    pending.end(root)
    report.say(f"    {text}")
    return text


def go_back(root: Path, under_way: Pending, report: Report, problem: str) -> str:
    """Bring the release back that served before, by the way that every release comes.

    Args:
        root: the deploy root.
        under_way: the release that is left.
        report: of the verb that found the problem.
        problem: why it is left, for its record.

    Returns:
        A sentence, with a line break before it, about what serves now and what the database keeps.

    Raises:
        UnfitError: it does not get ready either.
        EngineError: the host could not do what it takes.
    """
    record, deploys = releases.read(root, under_way.id), under_way.kind == DEPLOY
    was_good = record is not None and record.state == "good"
    if record and deploys:
        reason = masking.of(docker_of(root, under_way.id))(problem)
        record.state, record.reason, record.finished = "failed", reason, releases.now()
        releases.write(root, record)
    if not under_way.previous:
        pending.end(root)
        if was_good:
            back = docker_of(root, under_way.id).stack.make("rollback")
            return f"\nIt had been good, and was left as it is. To go to an earlier one: {back}"
        return "\nThere is no earlier release to go back to; this one was left as it is."
    apart = report.apart("go back")
    report.say(f"    going back to release {under_way.previous}")
    _serve(root, under_way.previous, apart)
    pending.end(root)
    told = f"\nRelease {under_way.previous} serves again."
    # A rollback applied nothing: the record is its target's, whose migrations were there long before.
    return told + (what_stays(docker_of(root, under_way.previous).stack, record) if record and deploys else "")


def leave(root: Path, under_way: Pending) -> None:
    """Mark a release that was left by a rollback: none goes to it by itself, until it is named and passes the gate.

    Args:
        root: the deploy root.
        under_way: the rollback.
    """
    left = releases.read(root, under_way.previous) if under_way.previous else None
    if left:
        left.state, left.reason = "rolled_back", f"rolled back to {under_way.id} at {releases.now()}"
        releases.write(root, left)


def what_stays(stack: Stack, record: releases.Record) -> str:
    """Say which migrations a release leaves that does not serve, and how they are undone.

    Args:
        stack: the release that serves.
        record: of the one that was left.

    Returns:
        Sentences with a line break before them; empty where there is nothing to say.
    """
    if not record.migrations:
        return ""
    backup_id = str(record.backup.get("id", ""))
    undo = stack.make("restore", f"BACKUP={backup_id}", f"CONFIRM={stack.env}")
    return f"\nThe migrations {', '.join(record.migrations)} stay applied: the old code runs on the new schema." + (
        f"\nTo undo them, with all that was written since the backup: {undo}" if backup_id else ""
    )


def _leads_to(stack: Stack) -> bool:
    return stack.rolls and bool(stack.edge and stack.edge.by_sockets) and edge.leads_to(stack)


def _neither(root: Path, found: Pending, error: UnfitError) -> str:
    """Say that the earlier release is none to go back to, and what to do; to be added to what became of the other."""
    docker = docker_of(root, found.previous)
    make, problem = docker.stack.make, masking.of(docker)(error.problem)
    return (
        f".\n    Release {found.previous}, which served before, does not get ready: {problem}\n"
        f"    It was left as it is. What helps is a release that gets ready: {make('deploy')} or {make('rollback')}"
    )


def _serve(root: Path, release_id: str, report: Report) -> None:
    try:
        serve(docker_of(root, release_id), report)
    except EngineError as error:
        if error.code in VERDICTS and report.current in JUDGED:
            raise UnfitError(error.code, error.problem, error.remedy) from error
        raise


def serve(docker: Docker, report: Report) -> None:
    """Bring about that a release serves, whole.

    Args:
        docker: the release.
        report: where steps are told; its names are set.

    Raises:
        EngineError: it cannot be brought to serve.
    """
    stack = docker.stack
    if stack.rolls and stack.edge and stack.edge.by_sockets:
        report.names = rollout.CONVERGE
        rollout.converge(docker, report)
        return
    report.names = release.STEPS
    release.up(docker, report)
    if stack.release:
        releases.switch(stack.root, stack.release)


@cache
def docker_of(root: Path, release_id: str) -> Docker:
    """Give the containers as a release that lies on this host wants them; its files are what they are from then on."""
    return Docker(stacks.load(root, root / releases.FOLDER / release_id))
