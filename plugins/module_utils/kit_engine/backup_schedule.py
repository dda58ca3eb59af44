"""Backups by the clock: systemd's timers on the host, what they run, and what is known of the last run of each."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Optional

from kit_engine import at_boot, backup, backup_checks, backup_offsite, backup_prune, command, hooks, releases, systemd
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report, duration
from kit_engine.stack import CURRENT, FILE_NAME, Stack
from kit_engine.verification import RESTORE

BACKUP, DRILL, OFFSITE = "backup", "drill", "offsite"
_NAMES = {BACKUP: "backup", DRILL: "backup-drill", OFFSITE: "backup-offsite"}
_MEANINGS = {
    BACKUP: "Back up", DRILL: "Restore the newest backup for a test:", OFFSITE: "Copy the backups off-site:",
}  # fmt: skip
# Where systemd notes when a timer with Persistent= rang last.
STAMPS = Path("/var/lib/systemd/timers")
# A new timer is given such a stamp at once.
_NEW_SECONDS = 60.0
RECORD = "records/scheduled.json"
# A deploy that is under way when the timer rings is waited for.
WAIT_SECONDS = 3600
PING_SECONDS = 10
_ASK = ("LoadState", "ActiveState", "NextElapseUSecRealtime")


@dataclass(frozen=True)
class Timer:
    """A unit that shall be on this host: its name without an ending, what it runs, and when; empty: when told to."""

    unit: str
    what: str
    calendar: str


def timers(stack: Stack) -> list[Timer]:
    """Give the timers that the environment asks for; none where the kit keeps no database."""
    if stack.backed_up is None:
        return []
    asked = ((BACKUP, stack.backup.schedule), (DRILL, stack.backup.drill_schedule))
    return [Timer(_unit(stack, what), what, calendar) for what, calendar in asked if calendar]


def _units(stack: Stack) -> list[Timer]:
    """The timers, and what a release starts when it has made a backup."""
    away = stack.backed_up and stack.backup.offsite_repository
    return [*timers(stack), *([Timer(_unit(stack, OFFSITE), OFFSITE, "")] if away else [])]


def follow_up(stack: Stack) -> None:
    """Have the backup of a release copied off-site, without waiting for that.

    Args:
        stack: the release.

    Raises:
        EngineError: it was not begun; the next copy makes up for it.
    """
    if stack.backup.offsite_repository and systemd.runs():
        systemd.call(stack, "start", "--no-block", f"{_unit(stack, OFFSITE)}.service")


def keep(stack: Stack, report: Report) -> None:
    """Have the timers be what the release asks for; what hinders is told, and found by the smoke gate.

    Args:
        stack: the release.
        report: where it is told.
    """
    with systemd.told(report, "the timers of the backups could not be installed"):
        install(stack)


def install(stack: Stack) -> bool:
    """Write the units of the timers, and have systemd run them; others of ours are removed.

    Args:
        stack: the release.

    Returns:
        Whether anything changed; never where PID 1 is not systemd.

    Raises:
        EngineError: systemd refuses, for one a time that it cannot read.
    """
    if not systemd.runs():
        return False
    wanted = {timer.what: timer for timer in _units(stack)}
    changed = []
    for what in _NAMES:
        timer = wanted.get(what)
        if timer is None:
            _remove(stack, what)
            continue
        files = {".service": _service(stack, timer), **({".timer": _timer(timer)} if timer.calendar else {})}
        is_new = systemd.write({f"{timer.unit}{ending}": text for ending, text in files.items()})
        if is_new or (timer.calendar and _shown(f"{timer.unit}.timer").get("ActiveState") != "active"):
            changed.append(timer)
    if changed:
        systemd.call(stack, "daemon-reload")
        for timer in (one for one in changed if one.calendar):
            systemd.call(stack, "enable", f"{timer.unit}.timer")
            # A new time counts from here on.
            systemd.call(stack, "restart", f"{timer.unit}.timer")
    return bool(changed)


def remove(stack: Stack) -> None:
    """Remove the timers with the stack."""
    if systemd.runs():
        for what in _NAMES:
            _remove(stack, what)


def schedule_verb(docker: Docker, arguments: argparse.Namespace) -> None:
    """Install the timers anew, and what a boot starts."""
    stack = docker.stack
    changed = install(stack) | at_boot.install(stack)
    told = state(stack)
    text = "\n".join(lines(told)) or "No backup is scheduled (release_bundle_backup_schedule)."
    arguments.report.done({"changed": changed, "schedule": told}, text)


def scheduled_verb(docker: Docker, arguments: argparse.Namespace) -> Callable[[], None]:
    """Do what a timer is for, within :func:`noted`; what is left for after the lock is what concerns off-site."""
    report: Report = arguments.report
    stack, what = docker.stack, str(arguments.what)
    report.names = (what,)
    begun = time.time()
    with report.step(what):
        given = _backup(docker, report) if what == BACKUP else _drill(docker, report)

    def later() -> None:
        with noted(lambda: docker, report, what):
            if what == BACKUP:
                backup_offsite.copy_made(stack, report, given)
            else:
                backup_offsite.check(stack, report)
        _note(stack, what, begun, given=given)
        if what == BACKUP:
            ping(stack, report)
        done = "was made and verified." if what == BACKUP else "was restored for a test: it is good."
        text = f"Backup {given} {done}"
        report.done({"changed": what == BACKUP, "backup": given, "message": text}, text)

    return later


@contextmanager
def noted(docker_of: Callable[[], Docker], report: Report, what: str) -> Iterator[None]:
    """Note a failure within the block, and tell whoever watches.

    Args:
        docker_of: gives the stack's containers; another release may serve once a run that was cut off is made whole.
        report: where it is told that nobody answered.
        what: that failed, such as ``backup``.
    """
    begun = time.time()
    try:
        yield
    except BaseException as error:
        problem = getattr(error, "problem", "") or str(error) or type(error).__name__
        docker = docker_of()
        stack = docker.stack
        _note(stack, what, begun, problem=problem)
        if isinstance(error, Exception):
            ping(stack, report, "/fail")
            record = releases.read(stack.root, stack.release) if stack.release else None
            if record:
                hooks.warn(docker, hooks.AFTER_BACKUP_FAILURE, report, record, what)
        raise


def state(stack: Stack) -> Optional[dict[str, Any]]:
    """Tell what is scheduled, and how the last runs ended.

    Args:
        stack: whose.

    Returns:
        ``systemd`` (whether it is PID 1) and ``timers``: by what they run ``unit``, ``calendar``, ``installed``,
        ``next`` (as systemd writes it; empty where nobody knows), ``last`` (``begun`` and ``ended`` in seconds since
        1970, ``ok``, ``backup``, ``problem``; None before the first run) and ``lost`` (when the timer rang last, where
        that run has left no trace; else 0). None where nothing is scheduled.
    """
    wanted = timers(stack)
    if not wanted:
        return None
    is_pid_1, last = systemd.runs(), _last(stack)
    told = {}
    for timer in wanted:
        shown = _shown(f"{timer.unit}.timer") if is_pid_1 else {}
        told[timer.what] = {
            "unit": f"{timer.unit}.timer", "calendar": timer.calendar,
            "installed": shown.get("ActiveState") == "active",
            "next": shown.get("NextElapseUSecRealtime", ""), "last": last.get(timer.what),
            "lost": _lost(stack, timer) if is_pid_1 else 0.0,
        }  # fmt: skip
    return {"systemd": is_pid_1, "timers": told}


def lines(told: Optional[Mapping[str, Any]]) -> list[str]:
    """Write for people what :func:`state` tells."""
    if told is None:
        return []
    return [
        f"{what:<12} {_when(told['systemd'], one)}; {_ended(one['last'])}{_rang(one)}"
        for what, one in told["timers"].items()
    ]


def _when(systemd: bool, one: Mapping[str, Any]) -> str:
    if not systemd:
        return f"{one['calendar']}: no systemd here, whatever calls `docker-manage.sh` knows when"
    if not one["installed"]:
        return f"{one['unit']} is MISSING"
    return f"next {one['next'] or one['calendar']}"


def _ended(last: Optional[Mapping[str, Any]]) -> str:
    if last is None:
        return "has not run yet"
    ago = f"last {duration(max(0.0, time.time() - last['ended']))} ago"
    return f"{ago}, good" if last["ok"] else f"{ago}, FAILED: {str(last['problem']).splitlines()[0]}"


def _rang(one: Mapping[str, Any]) -> str:
    if not one.get("lost"):
        return ""
    service = one["unit"].replace(".timer", ".service")
    ago = duration(max(0.0, time.time() - one["lost"]))
    return f"; it rang {ago} ago and NOTHING came of it: journalctl -u {service}"


def _lost(stack: Stack, timer: Timer) -> float:
    """Tell when a timer rang whose run noted nothing, as one that did not get as far as our program."""
    try:
        rang = (STAMPS / f"stamp-{timer.unit}.timer").stat().st_mtime
        made = (systemd.UNITS / f"{timer.unit}.timer").stat().st_mtime
    except OSError:
        return 0.0

    def is_noted() -> bool:
        last = _last(stack).get(timer.what)
        return last is None or float(last["ended"]) >= rang

    if rang > time.time() or abs(rang - made) < _NEW_SECONDS or is_noted():
        return 0.0
    running = _shown(f"{timer.unit}.service").get("ActiveState") in ("activating", "active")
    # It may have ended since it was looked up.
    return 0.0 if running or is_noted() else rang


def _backup(docker: Docker, report: Report) -> str:
    done = backup.create(docker, report, kind=backup.SCHEDULED)
    backup_prune.prune(docker.stack, report)
    return done.id


def _drill(docker: Docker, report: Report) -> str:
    stack = docker.stack
    found = backup.newest(stack.root)
    if found is None:
        raise EngineError("backup", "There is no good backup that could be restored.", stack.make("backup"))
    # Whatever its size: nobody waits for it.
    backup_checks.verify(docker, report, found, RESTORE)
    return str(found["id"])


def _note(stack: Stack, what: str, begun: float, *, given: str = "", problem: str = "") -> None:
    ended = {"begun": round(begun, 3), "ended": round(time.time(), 3), "ok": not problem, "backup": given}
    told = {**_last(stack), what: {**ended, "problem": problem}}
    releases.replace(stack.root / RECORD, json.dumps(told, indent=2) + "\n")


def _last(stack: Stack) -> dict[str, Any]:
    try:
        told = json.loads((stack.root / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def ping(stack: Stack, report: Report, what: str = "") -> None:
    """Tell whoever watches: it misses the call where this host is gone altogether.

    Args:
        stack: whose.
        report: where it is told that nobody answered.
        what: comes behind the address.
    """
    url = stack.backup.ping_url
    if not url:
        return
    if not url.startswith(("https://", "http://")):
        report.say("    warning: backup_ping_url is no address of the web; nobody was told")
        return
    # It takes as long to load as the rest of the engine together, and few verbs call anybody.
    request, client = import_module("urllib.request"), import_module("http.client")
    try:
        with request.urlopen(f"{url.rstrip('/')}{what}", timeout=PING_SECONDS):
            pass
    except (OSError, ValueError, client.HTTPException) as error:
        report.say(f"    warning: backup_ping_url did not answer: {error}")


def _unit(stack: Stack, what: str) -> str:
    return f"{stack.project}-{_NAMES[what]}"


def _service(stack: Stack, timer: Timer) -> str:
    there = stack.root / (f"{CURRENT}/{FILE_NAME}" if stack.release else FILE_NAME)
    verb = f"scheduled {timer.what} --wait {WAIT_SECONDS}" if timer.calendar else "copy-offsite"
    words = f'"{stack.root}/docker-manage.sh" {stack.env} {verb}'
    return f"""\
[Unit]
Description={_MEANINGS[timer.what]} {stack.name} ({stack.env})
After=docker.service network-online.target
ConditionPathExists={there}

[Service]
Type=oneshot
ExecStart={words}
Nice=10
"""


def _timer(timer: Timer) -> str:
    return f"""\
[Unit]
Description=When to run {timer.unit}.service

[Timer]
OnCalendar={timer.calendar}
# A host that was off then makes up for it.
Persistent=true

[Install]
WantedBy=timers.target
"""


def _remove(stack: Stack, what: str) -> None:
    unit = _unit(stack, what)
    paths = [systemd.UNITS / f"{unit}.timer", systemd.UNITS / f"{unit}.service"]
    if any(path.exists() for path in paths):
        if paths[0].exists():
            systemd.call(stack, "disable", "--now", f"{unit}.timer")
        for path in paths:
            path.unlink(missing_ok=True)
        systemd.call(stack, "daemon-reload")


def _shown(unit: str) -> dict[str, str]:
    told = {}
    with suppress(EngineError):
        done = command.run(["systemctl", "show", unit, *(f"--property={name}" for name in _ASK)])
        told = dict(line.split("=", 1) for line in done.out.splitlines() if "=" in line)
    return told
