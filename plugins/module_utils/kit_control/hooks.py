"""Hooks of the control node: the project's own commands at moments of a deploy, once for all hosts.

They get the release's record as JSON on standard input. Those of the image are run by the engine (kit_engine/hooks.py).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from kit_engine.command import readable, tail
from kit_engine.masking import masked

from kit_control.errors import KitError
from kit_control.manifest import Manifest

Secrets = Callable[[], Iterable[str]]
# Names of variables of our own environment whose values nobody should read in a log.
_SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIAL|WEBHOOK|DSN")


def of(project: Manifest, moment: str) -> list[Mapping[str, Any]]:
    """Give the hooks that run here at a moment, each with its number in the manifest."""
    entries = enumerate(project.data["hooks"].get(moment, ()))
    return [{**entry, "number": number} for number, entry in entries if entry["run"] == "control"]


def demand(project: Manifest, moment: str, root: Path, record: Mapping[str, Any], secrets: Secrets) -> None:
    """Run those that come before something.

    Args:
        project: the manifest.
        moment: ``before_backup`` or ``before_migrate``.
        root: the kit's folder, which they run in.
        record: of the release, as far as it is known.
        secrets: gives values to be masked in what one that fails has said.

    Raises:
        KitError: one failed or took too long; the rest was not run.
    """
    for hook in of(project, moment):
        problem = _problem(hook, moment, root, record, secrets)
        if problem:
            raise KitError(
                "hook",
                f"{problem}\nNo host was changed.",
                f"mend it, or take it out of hooks.{moment} in {project.path}, then: make deploy ENV={record['env']}",
            )


def warnings(project: Manifest, moment: str, root: Path, record: Mapping[str, Any], secrets: Secrets) -> list[str]:
    """Run those that come after something.

    Args:
        project: the manifest.
        moment: ``after_switch`` or ``after_failure``.
        root: the kit's folder, which they run in.
        record: of the release.
        secrets: gives values to be masked in what one that fails has said.

    Returns:
        What went wrong, a text each.
    """
    problems = [_problem(hook, moment, root, record, secrets) for hook in of(project, moment)]
    return [problem for problem in problems if problem]


def is_first(folder: Path, run: str) -> bool:
    """Tell whether this is the first of several hosts' tasks to ask, all at once, during one run of Ansible.

    Args:
        folder: where runs of this environment are noted.
        run: names the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".failed-run").open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if file.read() == run:
            return False
        file.truncate(0)
        file.write(run)
        return True


def _problem(hook: Mapping[str, Any], moment: str, root: Path, record: Mapping[str, Any], secrets: Secrets) -> str:
    """Run one; what went wrong, or nothing."""
    name = f"Hook {moment}[{hook['number']}] `{readable(hook['command'])}` on this machine"
    text = json.dumps({**record, "hook": moment}, ensure_ascii=False) + "\n"
    environment = {**os.environ, "KIT_ENV": str(record["env"]), "KIT_RELEASE": str(record["id"])}
    try:
        running = subprocess.Popen(  # noqa: S603 - the project's own words, no shell
            hook["command"],
            cwd=root,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            # To be ended with all that it starts.
            start_new_session=True,
        )
    except OSError as error:
        return f"{name} cannot be started: {error.strerror}."
    try:
        said, _ = running.communicate(text, timeout=hook["timeout_seconds"])
    except subprocess.TimeoutExpired:
        return f"{name} was given {hook['timeout_seconds']} s and has not ended; it was stopped."
    finally:
        if running.returncode is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.communicate()
    if not running.returncode:
        return ""
    own = [value for key, value in os.environ.items() if _SECRET_NAMES.search(key)]
    return f"{name} ended with {running.returncode}:\n{tail(masked(said, [*secrets(), *own]))}"
