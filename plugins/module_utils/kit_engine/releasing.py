"""The phases of a release on this host: prepare, switch, finish. Several hosts go through each together.

Up to the switch the old release serves untouched. After it a failure goes back by the same code.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from kit_engine import (
    at_boot,
    backup,
    backup_schedule,
    bundle,
    database,
    hooks,
    pending,
    preflight,
    recovery,
    release,
    releases,
    restore,
    retention,
    rollout,
    runlog,
    verbs,
)
from kit_engine import stack as stacks
from kit_engine.docker import Docker, image_id
from kit_engine.errors import EngineError
from kit_engine.pending import DEPLOY, ROLLBACK, Pending
from kit_engine.releases import Record
from kit_engine.report import Report
from kit_engine.rollout import Prepared, Wanted

_FACTS = ("env", "ref", "sha", "dirty", "image", "who")


def release_verb(arguments: argparse.Namespace) -> None:
    """Go through one phase.

    The request: ``phase``, and for ``prepare`` either ``rollback`` (id to go back to; empty: the last good one) or
    ``id``, ``configuration`` (hash of the content on standard input; empty: the current release is brought up again),
    ``current`` (id that served when that was compared) and the facts of the record, with ``restarts`` and ``backup`` of
    Wanted, and ``restore`` (whether a failed migration is undone by that backup); with ``switch`` that phase follows at
    once, its answer under ``switched``. For ``finish``: ``problem`` (what the smoke gate found; empty: all is well),
    ``warnings`` (of the control node's hooks) and ``keep`` (how many good releases stay). The others take ``keep`` for
    when they fail.

    The answer to a rollback tells ``stands`` where that release serves already: no phase follows.
    """
    report: Report = arguments.report
    root: Path = arguments.root.resolve()
    asked = json.loads(arguments.request)
    phase = str(asked["phase"])
    try:
        if phase == "prepare":
            report.done(_prepare(root, report, asked), "")
        elif phase == "switch":
            switched = _switch(root, report)
            report.done(switched, switched["message"])
        else:
            _finish(root, report, str(asked["problem"]), int(asked["keep"]), asked.get("warnings", ()))
    except EngineError:
        # A row of releases that fail would fill the disk. One that is still under way is the next run's to end.
        if "keep" in asked and pending.read(root) is None:
            # The secrets to be masked in what is told of the failure are read now: they may lie in what goes.
            report.mask("")
            _tidy(root, report, None, int(asked["keep"]))
        raise


def rollback_verb(_docker: Docker, arguments: argparse.Namespace) -> None:
    """Go back to an earlier release, on the host itself and without the smoke gate."""
    root: Path = arguments.root.resolve()
    report: Report = arguments.report
    goal = _goal(root, report, arguments.release or "")
    if goal.stands:
        report.done(goal.told(), goal.message)
        return
    _rollback(root, report, goal)
    _switch(root, report)
    _finish(root, report, "", arguments.keep, judged=False)


def rollback_target_verb(arguments: argparse.Namespace) -> None:
    """Tell which release a rollback would go to; the request's ``rollback`` names one, or leaves it to this host."""
    report: Report = arguments.report
    goal = _goal(arguments.root.resolve(), report, str(json.loads(arguments.request)["rollback"]))
    report.done({"changed": goal.completed, "release": goal.record.id}, goal.record.id)


def releases_verb(docker: Docker, arguments: argparse.Namespace) -> None:
    """List the releases."""
    root = docker.stack.root
    rows, unreadable = retention.rows(root), retention.unreadable(root)
    lines = [retention.table(rows), *(f"not a record: {one}" for one in unreadable)]
    arguments.report.done({"changed": False, "releases": rows, "unreadable": unreadable}, "\n".join(lines))


def _prepare(root: Path, report: Report, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Go through the first phase, and the second one where that is wanted at once; gives the answer."""
    back = "rollback" in asked
    if back:
        goal = _goal(root, report, str(asked["rollback"]))
        if goal.stands:
            return {**goal.told(), "files": _open_files(recovery.docker_of(root, goal.record.id))}
        given = _rollback(root, report, goal)
    else:
        given = _deploy(root, report, asked)
    told = {"changed": True, "release": given.id, "previous": given.previous, "seconds": dict(report.seconds)}
    told["record"] = _told(root, given)
    told["files"] = _open_files(recovery.docker_of(root, given.id)) if back else {}
    if asked.get("switch"):
        told["switched"] = _switch(root, report)
    return told


def _deploy(root: Path, report: Report, asked: Mapping[str, Any]) -> Pending:
    judged = releases.current(root)
    if "current" in asked and asked["current"] != judged:
        raise EngineError(
            "changed_meanwhile",
            f"Another deploy brought release {judged} while this one was being prepared. Nothing was changed.",
            "repeat the command",
        )
    recovered = recovery.recover(root, report)
    served = releases.current(root)
    if served != judged and not asked["configuration"]:
        raise EngineError(
            "changed_meanwhile",
            f"Release {judged}, which was to be brought up again, had been cut off: {recovered}\n"
            f"Release {served} serves.",
            "repeat the command    (it releases the project anew)",
        )
    given = served
    if asked["configuration"]:
        given = releases.receive(root, str(asked["id"]), str(asked["configuration"]), sys.stdin.buffer)
    docker, old = (
        recovery.docker_of(root, given),
        recovery.docker_of(root, served) if served and served != given else None,
    )
    known = None if asked["configuration"] else releases.read(root, given)
    under_way = Pending(given, DEPLOY, _earlier(root, known) if served == given else served)
    at_boot.keep(docker.stack, report)
    pending.begin(root, under_way)
    facts = {name: asked[name] for name in _FACTS}
    record = known or Record(
        id=given,
        started=releases.now(),
        configuration=bundle.hash_of(docker.stack.bundle),
        previous=under_way.previous,
        **facts,
    )
    before = record.state
    record.image_id = image_id(record.image)
    if before != "good":
        record.state = "running"
    releases.write(root, record)
    runlog.follow(docker, report, f"{DEPLOY}: prepare, by {record.who}")
    wanted = Wanted(frozenset(asked.get("restarts", ())), bool(asked.get("backup")))

    def keep(done: Prepared) -> None:
        record.migrations, record.backup, record.gaps = done.migrations, dict(done.backup), done.gaps
        releases.write(root, record)

    done = Prepared(keep=keep)
    try:
        if _takes_over(docker, old):
            report.names = wanted.steps(docker)
            rollout.ready_for(docker, report, wanted, done)
        else:
            there = preflight.check(docker)
            if served == given and docker.stack.rolls:
                # One that failed may have left what the app stands on another than this one's.
                rollout.made_anew(docker, there, wanted.restarts)
    except BaseException as error:
        failed_at = report.current
        if known:
            # It serves already, and was only to be brought up again: it is what it was.
            record.state = before
        else:
            record.state, record.reason = "failed", report.mask(_reason(error))
            keep(done)
        _close(root, report, record)
        if old is not None and _takes_over(docker, old):
            rollout.give_up(docker, old)
        # Ctrl-C is waited for by whoever pressed it.
        if isinstance(error, EngineError):
            hooks.warn(docker, hooks.AFTER_FAILURE, report, record, DEPLOY)
        pending.end(root)
        if isinstance(error, EngineError) and record.migrations and old is not None:
            told = recovery.what_stays(old.stack, record)
            if failed_at == "migrate" and asked.get("restore"):
                told = _undo(old, report, record)
            report.current = failed_at
            raise EngineError(error.code, f"{error.problem}{told}", error.remedy) from error
        raise
    record.seconds = dict(report.seconds)
    releases.write(root, record)
    return under_way


def _earlier(root: Path, record: Optional[Record]) -> str:
    """Id of what to go back to where the release that serves was not judged yet; empty where there is nothing."""
    earlier = releases.read(root, record.previous) if record and record.state != "good" else None
    return earlier.id if earlier and not retention.lacking(root, earlier) else ""


def _undo(old: Docker, report: Report, record: Record) -> str:
    """Bring the backup back that was made before the migrations; says what that lost."""
    backup_id = str(record.backup.get("id", ""))
    found = next((one for one in backup.listed(old.stack.root) if one["id"] == backup_id), None)
    if found is None:
        return recovery.what_stays(old.stack, record)
    apart = report.apart("restore")
    told = restore.restore(old, apart, found)
    return (
        f"\nBackup {backup_id} was restored (release_restore_on_failed_migration): what was written since it was made "
        f"is not in the database any more; {told['before']}."
    )


@dataclass(frozen=True)
class _Goal:
    """Where a rollback goes.

    Attributes:
        record: of that release.
        stands: whether it serves already.
        completed: whether it does since a moment ago, when a rollback to it was completed that had been cut off.
    """

    record: Record
    stands: bool
    completed: bool

    @property
    def message(self) -> str:
        """What is said where nothing is left to do."""
        if not self.completed:
            return f"release {self.record.id} serves already"
        return f"the rollback to release {self.record.id} had been cut off, and was completed: it serves"

    def told(self) -> dict[str, Any]:
        """The answer where nothing is left to do."""
        return {"changed": self.completed, "stands": True, "release": self.record.id, "message": self.message}


def _goal(root: Path, report: Report, wanted: str) -> _Goal:
    """Find out where a rollback goes, after the host was made whole; without a name to where one went that was cut off:
    whoever repeats the command means no other."""
    cut_off = pending.read(root)
    recovery.recover(root, report)
    served = releases.current(root)
    completed = cut_off is not None and (cut_off.kind, cut_off.id) == (ROLLBACK, served)
    target = retention.target(root, wanted or (served if completed else ""))
    return _Goal(target, target.id == served, completed and target.id == served)


def _again(docker: Docker) -> str:
    """The command that goes on with a rollback: without the name it could go one further back."""
    return docker.stack.make("rollback", f"RELEASE={docker.stack.release}")


def _rollback(root: Path, report: Report, goal: _Goal) -> Pending:
    served, target = releases.current(root), goal.record
    docker = recovery.docker_of(root, target.id)
    if docker.stack.edge and not docker.stack.edge.by_sockets:
        raise EngineError(
            "rollback",
            f"Release {target.id} was made for an nginx that reaches web by its name, not by sockets, and cannot stand "
            "beside the one that serves. Nothing was changed.",
            docker.stack.make("deploy", f"VERSION={target.sha}") + "    (its code, released anew)",
        )
    unknown = _unknown(docker)
    if unknown:
        report.say(
            f"    the database keeps {len(unknown)} migrations that {target.id} does not know: {', '.join(unknown)}"
        )
    report.again = _again(docker)
    report.say(f"    going back to release {target.id}; should this be cut off: {report.again}")
    under_way = Pending(target.id, ROLLBACK, served)
    at_boot.keep(docker.stack, report)
    pending.begin(root, under_way)
    runlog.follow(docker, report, f"{ROLLBACK}: prepare, from {served}")
    try:
        if docker.stack.rolls:
            wanted = Wanted(commands=False)
            report.names = wanted.steps(docker)
            rollout.ready_for(docker, report, wanted, Prepared())
    except BaseException as error:
        rollout.give_up(docker, recovery.docker_of(root, served))
        if isinstance(error, EngineError):
            hooks.warn(docker, hooks.AFTER_FAILURE, report, target, ROLLBACK)
        pending.end(root)
        raise
    return under_way


def _unknown(docker: Docker) -> list[str]:
    """Name the migrations in the database that a release does not know."""
    recorded = retention.migrations_after(docker.stack.root, docker.stack.release)
    if not recorded:
        return []
    try:
        there = database.migrations(docker)
    except EngineError:
        # A rollback may be what helps: it is not refused for want of an answer.
        there = []
    # Some may have been undone by a restore.
    return [name for name in recorded if name in there] if there else recorded


def _switch(root: Path, report: Report) -> dict[str, Any]:
    under_way, before = _under_way(root), set(report.seconds)
    docker = recovery.docker_of(root, under_way.id)
    # One that serves already takes over from nobody, and may have one to go back to.
    takes_over = bool(under_way.previous) and releases.current(root) != under_way.id
    old = recovery.docker_of(root, under_way.previous) if takes_over else None
    _follow(docker, report, under_way, "switch")
    changes: dict[str, Any] = {"changed": True}
    record = releases.read(root, under_way.id)
    try:
        if _takes_over(docker, old):
            report.names = _steps_of(root, under_way, docker)
            rollout.switch(docker, report)
        else:
            report.names = (*release.STEPS, *hooks.steps(docker))
            told = release.up(docker, report, is_new=under_way.kind == DEPLOY)
            releases.switch(root, under_way.id)
            changes = {**told.as_result(), "changed": True}
            if record and under_way.kind == DEPLOY:
                record.migrations += told.migrations
    except EngineError as error:
        raise EngineError(error.code, _go_back(root, under_way, report, error.problem), error.remedy) from error
    if record and under_way.kind == DEPLOY:
        if record.state != "good":
            record.state = "live"
        record.seconds.update(report.seconds)
        releases.write(root, record)
    if record and hooks.steps(docker):
        with report.step(hooks.STEP):
            hooks.warn(docker, hooks.AFTER_SWITCH, report, record, under_way.kind)
        if under_way.kind == DEPLOY:
            record.seconds.update(report.seconds)
            releases.write(root, record)
    backup_schedule.keep(docker.stack, report)
    text = f"{docker.stack.name} ({docker.stack.env}) is ready: {verbs.site_url(docker)}, release {under_way.id}"
    seconds = {step: took for step, took in report.seconds.items() if step not in before}
    return {**changes, "release": under_way.id, "message": text, "seconds": seconds, "record": _told(root, under_way)}


def _finish(
    root: Path, report: Report, problem: str, keep: Optional[int], warnings: Sequence[str] = (), *, judged: bool = True
) -> None:
    under_way = _under_way(root)
    noted = releases.read(root, under_way.id) if warnings else None
    if noted:
        noted.warnings += warnings
        releases.write(root, noted)
    docker = recovery.docker_of(root, under_way.id)
    _follow(docker, report, under_way, "finish")
    if problem:
        raise EngineError("smoke", _go_back(root, under_way, report, problem), docker.stack.make("releases"))
    if under_way.kind == ROLLBACK:
        recovery.leave(root, under_way)
    record = releases.read(root, under_way.id)
    if record and under_way.kind == ROLLBACK and judged:
        # One that had been left before, and was named: what is known of it now is that it passed the gate.
        record.state, record.reason = "good", ""
        releases.write(root, record)
    if record and under_way.kind == DEPLOY:
        record.state, record.reason = "good", ""
        _close(root, report, record)
    pending.end(root)
    if record and record.backup and under_way.kind == DEPLOY:
        with _warned(root, report, record, "the copy of the backup off-site was not begun"):
            backup_schedule.follow_up(docker.stack)
    removed = _tidy(root, report, record, keep) if keep is not None else []
    text = f"release {under_way.id} is good" + (f"; removed {', '.join(removed)}" if removed else "")
    with suppress(OSError):
        report.log(f"{text}\n")
    told = {"changed": True, "release": under_way.id, "removed": removed, "record": _told(root, under_way)}
    report.done({**told, "message": text}, text)


def _tidy(root: Path, report: Report, record: Optional[Record], keep: int) -> list[str]:
    """Remove what earlier releases left; gives the ids of those that went."""
    gone: list[str] = []
    what = "not all that earlier releases left was removed"
    with _warned(root, report, record, what):
        gone, left = retention.prune(root, keep)
        if left:
            runlog.warn(root, report, record, f"{what}: {'; '.join(left)}")
    return gone


@contextmanager
def _warned(root: Path, report: Report, record: Optional[Record], what: str) -> Iterator[None]:
    """Have whatever goes wrong be a warning: the release has ended by then, and does not hang on it."""
    try:
        yield
    except Exception as error:
        with suppress(OSError):
            runlog.warn(root, report, record, f"{what}: {_reason(error)}")


def _follow(docker: Docker, report: Report, under_way: Pending, phase: str) -> None:
    runlog.follow(docker, report, f"{under_way.kind}: {phase}")
    if under_way.kind == ROLLBACK:
        report.again = _again(docker)


def _go_back(root: Path, under_way: Pending, report: Report, problem: str) -> str:
    """Go back, and have the hooks of a failure run whatever becomes of that; the problem and what serves now."""
    failure: Optional[EngineError] = None
    told = problem
    try:
        told += recovery.go_back(root, under_way, report, problem)
    except EngineError as error:
        told += f"\nRelease {under_way.previous} could not be brought to serve again: {error.problem}"
        failure = EngineError(error.code, told, error.remedy)
    record = releases.read(root, under_way.id)
    if record:
        hooks.warn(recovery.docker_of(root, under_way.id), hooks.AFTER_FAILURE, report, record, under_way.kind)
    if failure:
        raise failure
    return told


def _told(root: Path, under_way: Pending) -> dict[str, Any]:
    """The record as the control node's hooks get it."""
    record = releases.read(root, under_way.id)
    return {**asdict(record), "kind": under_way.kind} if record else {"id": under_way.id, "kind": under_way.kind}


def _open_files(docker: Docker) -> dict[str, str]:
    """The files of a release that hold no secret: a control node judges by them what runs after a rollback."""
    bundle_folder = docker.stack.bundle
    paths = [bundle_folder / stacks.FILE_NAME, bundle_folder / docker.stack.compose_file]
    paths += [path for path in (bundle_folder / "nginx").rglob("*") if path.is_file()]
    return {path.relative_to(bundle_folder).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def _under_way(root: Path) -> Pending:
    found = pending.read(root)
    if found is None:
        raise EngineError(
            "not_prepared", "No release is under way on this host: it was recovered meanwhile.", "repeat the command"
        )
    return found


def _steps_of(root: Path, under_way: Pending, docker: Docker) -> tuple[str, ...]:
    """The steps that the first phase went through a part of, for their numbers to go on."""
    record = releases.read(root, under_way.id)
    deploys = under_way.kind == DEPLOY
    return Wanted(backup=deploys and record is not None and bool(record.backup), commands=deploys).steps(docker)


def _takes_over(docker: Docker, old: Optional[Docker]) -> bool:
    """Whether a release takes over from another without a gap; else it is brought up in its place."""
    return docker.stack.rolls and old is not None and old.stack.rolls and old.stack.release != docker.stack.release


def _close(root: Path, report: Report, record: Record) -> None:
    record.finished = releases.now()
    record.seconds.update(report.seconds)
    releases.write(root, record)


def _reason(error: BaseException) -> str:
    return error.problem if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
