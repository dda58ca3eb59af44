"""Copies of backups elsewhere, by restic: encrypted before they leave the host, and never removed from here."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from kit_engine import command, releases
from kit_engine.errors import EngineError
from kit_engine.report import Report, duration
from kit_engine.stack import Stack

# KEY=VALUE in each line: RESTIC_PASSWORD, and what the place asks for.
SECRETS = "shared/offsite.env"
RECORD = "records/offsite.json"
# A question waits for a place that is far away, not for one that is gone.
ASK_SECONDS = 60.0
_ID = "id:"
# Shorter values would mask words that are no secrets.
_MASKED_LENGTH = 4


def send(stack: Stack, report: Report, folder: Path) -> str:
    """Copy a backup that was verified; what hinders is told and recorded, and the backup stands.

    Args:
        stack: whose.
        report: where it is told.
        folder: of the backup, under its final name.

    Returns:
        What is wrong; empty where it was copied, or where no place is configured.
    """
    if not stack.backup.offsite_repository:
        return ""
    problem = ""
    try:
        _demand_repository(stack)
        words = ["backup", "--quiet", "--host", stack.project, *_tags(stack), "--tag", f"{_ID}{folder.name}"]
        _restic(stack, *words, str(folder), limit=stack.backup.timeout_seconds)
    except EngineError as error:
        problem = error.problem
    _note(stack, folder.name, problem)
    if problem:
        report.say(f"    warning: backup {folder.name} lies on this host only, its copy off-site failed: {problem}")
    else:
        report.say(f"    backup {folder.name} was copied off-site")
    return problem


def demand_copied(stack: Stack, given: str) -> None:
    """Have a command that only makes a backup fail where that was not copied.

    Args:
        stack: whose.
        given: the backup's id.

    Raises:
        EngineError: a place is configured, and the copy failed.
    """
    told = state(stack)
    if told and told["id"] == given and told["problem"]:
        problem = f"Backup {given} is good and lies on this host, but was not copied off-site: {told['problem']}"
        raise EngineError("offsite", problem, stack.make("backup"))


def listed(stack: Stack) -> dict[str, str]:
    """Ask which backups lie off-site.

    Args:
        stack: whose.

    Returns:
        By the backup's id that of restic's snapshot; nothing where no place is configured.

    Raises:
        EngineError: the place does not answer, or refuses.
    """
    if not stack.backup.offsite_repository:
        return {}
    told = _restic(stack, "snapshots", "--json", *_tags(stack), limit=ASK_SECONDS)
    return {
        tag[len(_ID) :]: str(one["id"])
        for one in json.loads(told) or ()
        for tag in one.get("tags") or ()
        if tag.startswith(_ID)
    }


def fetch(stack: Stack, given: str, new: Path, folder: Path) -> bool:
    """Bring a backup to this host that lies off-site only.

    Args:
        stack: whose.
        given: its id.
        new: folder that it is brought to first; beside ``folder``, removed at the end.
        folder: that it shall be.

    Returns:
        Whether it is there now.

    Raises:
        EngineError: the place does not answer, or what it gave is not whole.
    """
    snapshot = listed(stack).get(given)
    if snapshot is None:
        return False
    new.mkdir(mode=0o700, parents=True)
    try:
        _restic(stack, "restore", "--verify", "--target", str(new), snapshot, limit=stack.backup.timeout_seconds)
        # restic keeps the whole path that it had on the host that it is from.
        found = next((path for path in new.rglob(given) if path.is_dir()), None)
        if found is None:
            raise EngineError("offsite", f"Copy {snapshot} holds no backup {given}.", stack.make("backups"))
        found.rename(folder)
        releases.sync_folder(folder.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return True


def state(stack: Stack) -> Optional[dict[str, Any]]:
    """Tell how the last copy ended.

    Args:
        stack: whose.

    Returns:
        ``id``, ``ended`` and ``good`` (when the last good one ended, 0 for never) in seconds since 1970, ``problem``.
        None where no place is configured.
    """
    if not stack.backup.offsite_repository:
        return None
    try:
        told = json.loads((stack.root / RECORD).read_text(encoding="utf-8"))
        return {name: told[name] for name in ("id", "ended", "good", "problem")}
    except (OSError, ValueError, KeyError, TypeError):
        return {"id": "", "ended": 0.0, "good": 0.0, "problem": "nothing was copied yet"}


def line(told: Mapping[str, Any]) -> str:
    """Write for people what :func:`state` tells."""
    good = f"last copy {duration(max(0.0, time.time() - told['good']))} ago" if told["good"] else "no copy"
    return f"{good}; FAILED: {told['problem'].splitlines()[0]}" if told["problem"] else f"{good}, good"


def _note(stack: Stack, given: str, problem: str) -> None:
    before, now = state(stack), round(time.time(), 3)
    good = (before["good"] if before else 0.0) if problem else now
    told = {"id": given, "ended": now, "good": good, "problem": problem}
    releases.replace(stack.root / RECORD, json.dumps(told, indent=2) + "\n")


def _tags(stack: Stack) -> list[str]:
    """What marks the backups of this stack among others in one place; a comma means both."""
    return ["--tag", f"project:{stack.project},env:{stack.env}"]


def _demand_repository(stack: Stack) -> None:
    """Make the place ready where it is new."""
    try:
        _restic(stack, "cat", "config", limit=ASK_SECONDS)
    except EngineError as error:
        # Where it is one already, this changes nothing: then the first answer says what is wrong.
        try:
            _restic(stack, "init", limit=ASK_SECONDS)
        except EngineError:
            raise error from None


def _restic(stack: Stack, *words: str, limit: float) -> str:
    """Run restic; the place and its secrets are variables, which other users cannot read as they can arguments."""
    secrets = _secrets(stack)
    env = {"RESTIC_REPOSITORY": stack.backup.offsite_repository, "RESTIC_CACHE_DIR": str(stack.root / "shared/restic")}
    done = command.run(["restic", *words], limit=limit, env={**secrets, **env})
    if done.code:
        said = command.tail(_masked(done.err or done.out, secrets))
        raise EngineError("offsite", f"`restic {words[0]}` ended with {done.code}:\n{said}", stack.make("backups"))
    return done.out


def _secrets(stack: Stack) -> dict[str, str]:
    path = stack.root / SECRETS
    try:
        if path.stat().st_mode & 0o077:
            raise EngineError("offsite", f"Others can read {path}.", f"chmod 600 {path}")
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        problem = f"The secrets of the off-site place cannot be read: {path}: {error.strerror}."
        raise EngineError("offsite", problem, stack.make("deploy")) from None
    pairs = (one.partition("=") for one in lines if "=" in one and not one.startswith("#"))
    return {name.strip(): value for name, _, value in pairs}


def _masked(text: str, secrets: Mapping[str, str]) -> str:
    for value in sorted(secrets.values(), key=len, reverse=True):
        if len(value) >= _MASKED_LENGTH:
            text = text.replace(value, "***")
    return text
