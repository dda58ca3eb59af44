"""Hooks: the project's own commands at moments of a release, each in a container of the new image.

They get the release's record as JSON on standard input. Those before fail the release, those after warn. Those of the
control node are run there (kit_control/hooks.py).
"""

from __future__ import annotations

import json
from dataclasses import asdict

from kit_engine import command, masking, one_off, releases, runlog
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.pending import DEPLOY
from kit_engine.releases import Record
from kit_engine.report import Report
from kit_engine.stack import Hook

BEFORE_BACKUP, BEFORE_MIGRATE = "before_backup", "before_migrate"
AFTER_SWITCH, AFTER_FAILURE = "after_switch", "after_failure"
AFTER_BACKUP_FAILURE = "after_backup_failure"
# The step that they are after a switch.
STEP = "hooks"


def steps(docker: Docker) -> tuple[str, ...]:
    """Name the step after a release's last one, where the project has hooks for it."""
    return (STEP,) if docker.stack.release and docker.stack.hooks.get(AFTER_SWITCH) else ()


def demand(docker: Docker, moment: str) -> None:
    """Run the hooks that come before something; in local, which is no release, there are none.

    Args:
        docker: the release; its record is written.
        moment: ``before_backup`` or ``before_migrate``.

    Raises:
        EngineError: one failed or took too long; the rest was not run.
    """
    stack = docker.stack
    record = releases.read(stack.root, stack.release) if stack.release else None
    for number, hook in enumerate(stack.hooks.get(moment, ()) if record else ()):
        problem = _problem(docker, moment, number, hook, told(record, moment, DEPLOY) if record else "")
        if problem:
            raise EngineError(
                "hook",
                f"{problem}\nThe release was ended before it changed the database.",
                f"mend it, or take it out of hooks.{moment} in the manifest, then: {stack.make('deploy')}",
            )


def warn(docker: Docker, moment: str, report: Report, record: Record, kind: str) -> None:
    """Run the hooks that come after something, and note in the record what fails.

    Args:
        docker: the release.
        moment: ``after_switch``, ``after_failure`` or ``after_backup_failure``.
        report: where a failure is told.
        record: of the release; written where a hook fails.
        kind: ``deploy``, ``rollback``, ``backup`` or ``drill``.
    """
    stack = docker.stack
    for number, hook in enumerate(stack.hooks.get(moment, ()) if stack.release else ()):
        problem = _problem(docker, moment, number, hook, told(record, moment, kind))
        if problem:
            runlog.warn(stack.root, report, record, problem)


def told(record: Record, moment: str, kind: str) -> str:
    """Write what a hook reads: the record, with what it is run for."""
    return json.dumps({**asdict(record), "hook": moment, "kind": kind}) + "\n"


def _problem(docker: Docker, moment: str, number: int, hook: Hook, text: str) -> str:
    """Run one; what went wrong, or nothing."""
    name = f"Hook {moment}[{number}] `{command.readable(hook.command)}`"
    try:
        done = one_off.run(docker, hook.command, stdin=text, limit=hook.timeout_seconds)
    except EngineError as error:
        if error.code == "timeout":
            return f"{name} was given {hook.timeout_seconds} s and has not ended; it was stopped."
        return f"{name} could not be run: {masking.of(docker)(error.problem)}"
    if not done.code:
        return ""
    return f"{name} ended with {done.code}:\n{command.tail(masking.of(docker)(done.out + done.err))}"
