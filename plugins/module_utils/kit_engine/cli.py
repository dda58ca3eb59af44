"""The command line of the engine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from copy import copy
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from kit_engine import __version__, lock, masking, pending, prepare, runlog, signals
from kit_engine.docker import Docker
from kit_engine.errors import EngineError, UsageError
from kit_engine.report import Report
from kit_engine.stack import load

FAILED, USAGE = 1, 2
# As a shell tells it of a program that Ctrl-C ended.
INTERRUPTED = 130

# Module and function of each verb, loaded when it is called: an archive is compiled anew at every start.
_BY_REQUEST = {
    "ahead": "backup_ahead.ahead_verb",
    "app-image": "images_verbs.app_image_verb",
    "base-images": "images_verbs.base_images",
    "facts": "facts.facts_verb",
    "images": "images_verbs.images",
    "install-certificate": "certificate_verbs.install_verb",
    "image-migrations": "plan.image_migrations_verb",
    "plan": "plan.plan_verb",
    "preflight": "preflight_verb.preflight_verb",
    "release": "releasing.release_verb",
    "rollback-target": "releasing.rollback_target_verb",
    "session": "session.session_verb",
    "trial": "trial.trial_verb",
}


def _always(_arguments: argparse.Namespace) -> bool:
    return True


# Those that change the host, by their arguments, and so need its lock. The images that a control node makes for itself
# are not among them: they take turns by themselves, and a session's token has them hold the lock on a host.
_CHANGES: Mapping[str, Callable[[argparse.Namespace], bool]] = {
    "certificate": lambda given: bool(given.chain or given.key),
    "destroy": _always,
    "down": _always,
    "images": lambda given: json.loads(given.request)["mode"] != "ask",
    "maintenance": _always,
    "install-certificate": lambda given: not json.loads(given.request).get("only_ask"),
    "backup": _always,
    "migrate": _always,
    "release": _always,
    "restart": _always,
    "prune-backups": lambda given: not given.dry_run,
    "recover": _always,
    "restore": _always,
    "schedule": _always,
    "scheduled": _always,
    "verify-backup": _always,
    "rollback": _always,
    "rollback-target": _always,
    "up": _always,
}
# Those of them that make whole by themselves what a run left that was cut off: where they go depends on it.
_RECOVERS = frozenset({"recover", "release", "rollback", "rollback-target"})
# Those of them that people do by hand or timers by the clock, and that leave a release's log what they told, as its own
# phases do.
_LOGGED = frozenset({"backup", "migrate", "restore", "scheduled", "verify-backup"})


class _Parser(argparse.ArgumentParser):
    """A parser whose errors read like all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[0].upper()}{message[1:]}.", "./docker-manage.sh help")


def main(argv: Sequence[str]) -> int:
    """Run one verb.

    Args:
        argv: the arguments after the program's name.

    Returns:
        0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    with signals.taken():
        return _run(list(argv))


def _run(words: list[str]) -> int:
    report = Report("engine", "--json" in words)
    try:
        arguments = parser().parse_args(_with_separator(words))
        report.verb = arguments.verb
        arguments.report = report
        run = _load(arguments.run)
        if "request" in arguments:
            with _locked(arguments):
                if arguments.verb in _RECOVERS:
                    _take_up(arguments.root.resolve(), report)
                run(arguments)
                prepare.give_back(arguments.root)
            return 0
        stack = load(arguments.root)
        if arguments.env and arguments.env != stack.env:
            raise UsageError(
                f"{stack.root} holds environment {stack.env}, not {arguments.env!r}.",
                f"./docker-manage.sh {stack.env} {arguments.verb}",
            )
        docker = Docker(stack)
        report.mask = masking.of(docker)
        with _noted(lambda: docker, arguments), _locked(arguments):
            if _makes_whole(arguments):
                # Noted with that run, which the verb's own steps are no part of.
                of_that_run = copy(report)
                _take_up(stack.root, of_that_run)
                import_module("kit_engine.recovery").recover(stack.root, of_that_run)
                docker = Docker(load(arguments.root))
            elif arguments.verb in _RECOVERS:
                _take_up(stack.root, report)
            if arguments.verb in _LOGGED and docker.stack.release:
                runlog.follow(docker, report, f"{arguments.verb}, by {lock.caller()}")
            later = run(docker, arguments)
            prepare.give_back(stack.root)
        # What a verb leaves for then may take hours, and needs no lock: others need not wait for it.
        if later:
            later()
    except UsageError as error:
        report.failed(error)
        return USAGE
    except EngineError as error:
        report.failed(error)
        return FAILED
    except OSError as error:
        place = error.filename or "a file"
        report.failed(
            EngineError("files", f"{place}: {error.strerror or error}.", f"ls -ld {place}    (may you write?)")
        )
        return FAILED
    except KeyboardInterrupt:
        # Whoever would read it may be gone: a control node, a terminal.
        with suppress(OSError):
            report.failed(EngineError("interrupted", "Interrupted.", report.again))
            sys.stdout.flush()
        return INTERRUPTED
    return 0


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    top = _Parser(
        prog="docker-manage.sh ENVIRONMENT",
        usage="./docker-manage.sh ENVIRONMENT VERB [ARGUMENTS]",
        description="Keeps one stack on this host.",
    )
    top.add_argument("--version", action="version", version=__version__)
    top.add_argument("--root", type=Path, required=True, help="the deploy root; docker-manage.sh gives it")
    top.add_argument("--env", help="the environment that must be there; docker-manage.sh gives it")
    commands = top.add_subparsers(dest="verb", required=True, metavar="verb", parser_class=_Parser)

    def lockable(command: argparse.ArgumentParser) -> None:
        text = "wait so long for another command that changes this host"
        command.add_argument("--wait", type=float, default=0, metavar="SECONDS", help=text)
        command.add_argument("--session", default="", help=argparse.SUPPRESS)

    def add(name: str, run: str, text: str, *, as_json: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if as_json:
            command.add_argument("--json", action="store_true", help="print one JSON object")
        if name in _CHANGES:
            lockable(command)
        return command

    add("check", "verbs.check_verb", "judge this host, change nothing")
    add("up", "verbs.up_verb", "bring the stack up, or up to date")
    add("down", "verbs.down", "stop the stack, keep its data")
    destroy = add("destroy", "verbs.destroy", "remove the stack with its data")
    destroy.add_argument("--confirm", metavar="ENV", help="the environment's name, instead of asking for it")
    add("status", "status.status_verb", "show how the stack and its host are")
    made = add("backup", "backup_verbs.backup_verb", "back database and media files up, and verify the backup")
    text = "how far it is verified; default: as far as the environment says"
    made.add_argument("--level", choices=("checksum", "read", "restore"), help=text)
    add("backups", "backup_verbs.backups_verb", "list the backups, and where each lies")
    add("copy-offsite", "backup_offsite.copy_verb", "copy off-site what lies on this host only")
    verified = add("verify-backup", "backup_checks.verify_verb", "show that a backup is good")
    verified.add_argument("backup", nargs="?", default="latest", metavar="ID", help="of the backup, or latest")
    text = "how far; default: as far as the environment says"
    verified.add_argument("--level", choices=("checksum", "read", "restore"), help=text)
    pruned = add("prune-backups", "backup_prune.prune_verb", "remove the backups that need not be kept")
    pruned.add_argument("--dry-run", action="store_true", help="only tell which")
    add("schedule", "backup_schedule.schedule_verb", "install the timers of the backups anew, and what a boot starts")
    timed = add("scheduled", "backup_schedule.scheduled_verb", "what a timer runs: a backup, or the drill of a restore")
    timed.add_argument("what", choices=("backup", "drill"))
    restore = add("restore", "restore.restore_verb", "bring a backup of the database back")
    restore.add_argument("backup", metavar="ID", help="of the backup, or latest")
    restore.add_argument("--confirm", metavar="ENV", help="the environment's name, instead of asking for it")
    restore.add_argument("--without-backup", action="store_true", help="make no backup of what is there")
    add("releases", "releasing.releases_verb", "list the releases of this host")
    rollback = add("rollback", "releasing.rollback_verb", "go back to the last good release, or to one that is named")
    rollback.add_argument("release", nargs="?", metavar="ID")
    text = "remove all but so many good releases afterwards; default: the next deploy does, which knows how many stay"
    rollback.add_argument("--keep", type=int, metavar="N", help=text)
    recover = add("recover", "recovery.recover_verb", "make whole what a run left that was cut off, as a boot does")
    # As with those for Ansible there need be no current release.
    recover.set_defaults(request="")
    add("migrate", "verbs.migrate", "run the release commands (migrations) now")
    shown = add(
        "certificate", "certificate_verbs.certificate_verb", "show the site's certificates, or bring one into use"
    )
    for name, text in (("chain", "full chain, the site's own first"), ("key", "its private key"), ("ca", "private CA")):
        shown.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"{text} (PEM)")
    closed = add(
        "maintenance", "maintenance.maintenance_verb", "answer visitors with 503 and a page (on), or not any more (off)"
    )
    closed.add_argument("state", choices=("on", "off"))
    closed.add_argument("--allow", default="", metavar="ADDRESSES", help="addresses and networks that see the site")
    text = "seconds after which others may come again (300)"
    closed.add_argument("--retry-after", type=int, default=300, metavar="SECONDS", help=text)
    restart = add("restart", "verbs.restart", "restart all services, or one")
    restart.add_argument("service", nargs="?")
    add("ps", "verbs.ps", "list the containers", as_json=False)
    logs = add("logs", "verbs.logs", "show the logs of all services, or one", as_json=False)
    logs.add_argument("service", nargs="?")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    shell = add("shell", "verbs.shell", "open a shell inside a service's container", as_json=False)
    shell.add_argument("service", nargs="?")
    manage = add("manage", "verbs.manage", "run manage.py with the arguments that follow", as_json=False)
    manage.add_argument("words", nargs="*")
    for name, run in _BY_REQUEST.items():
        # Without a help text: these are for Ansible, which knows what an environment asks for.
        hidden = commands.add_parser(name)
        hidden.set_defaults(run=run)
        hidden.add_argument("--json", action="store_true")
        hidden.add_argument("--request", required=True, metavar="JSON")
        lockable(hidden)
    return top


def _locked(arguments: argparse.Namespace) -> AbstractContextManager[None]:
    """Give the host's lock to a verb that changes it, or that is a step of a session."""
    session = getattr(arguments, "session", "")
    changes = _CHANGES.get(arguments.verb)
    if not session and not (changes and changes(arguments)):
        return nullcontext()
    command = f"./docker-manage.sh {arguments.env or 'ENVIRONMENT'} {arguments.verb}"
    return lock.held(arguments.root, command, lock.caller(), arguments.wait, session, arguments.report.say)


def _noted(docker: Callable[[], Docker], arguments: argparse.Namespace) -> AbstractContextManager[None]:
    """Have it noted how a timer's run failed, also before its verb begins: nobody sits there who would see it."""
    if arguments.verb != "scheduled":
        return nullcontext()
    schedule = import_module("kit_engine.backup_schedule")
    noted: AbstractContextManager[None] = schedule.noted(docker, arguments.report, arguments.what)
    return noted


def _makes_whole(arguments: argparse.Namespace) -> bool:
    """Whether a verb finds what an earlier run left that was cut off; one that only ends the stack leaves that."""
    changes = _CHANGES.get(arguments.verb)
    return bool(
        changes
        and changes(arguments)
        and arguments.verb not in {"down", "destroy", *_RECOVERS}
        and pending.read(arguments.root)
    )


def _take_up(root: Path, report: Report) -> None:
    """Have what is done about a run that was cut off noted with it, until a run of the verb's own is followed."""
    left = pending.read(root)
    if left:
        runlog.take_up(import_module("kit_engine.recovery").docker_of(root, left.id), report)


def _load(name: str) -> Any:
    """Give what a module of the engine holds, such as ``verbs.up_verb``."""
    module, _, inside = name.partition(".")
    return getattr(import_module(f"kit_engine.{module}"), inside)


def _with_separator(words: list[str]) -> list[str]:
    """Keep argparse from reading what belongs to manage.py."""
    for number, word in enumerate(words):
        if word == "manage" and (number == 0 or words[number - 1] != "--root"):
            return [*words[: number + 1], "--", *words[number + 1 :]]
    return words


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
