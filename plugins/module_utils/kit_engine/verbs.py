"""The verbs of the command line: each takes the stack and its arguments, and prints its result."""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from kit_engine import (
    admin,
    at_boot,
    backup_schedule,
    command,
    ending,
    preflight,
    readiness,
    release,
    release_commands,
)
from kit_engine.docker import PROJECT_LABEL, Docker
from kit_engine.errors import EngineError, UsageError
from kit_engine.report import Report

# A shell where there is a good one, else the one that is always there.
SHELL = ("sh", "-c", "if command -v bash >/dev/null; then exec bash; else exec sh; fi")

LEFT = "docker ps    (what is still there?)"


def check_verb(docker: Docker, arguments: argparse.Namespace) -> None:
    """Judge the host, change nothing."""
    preflight.check(docker)
    arguments.report.done({"changed": False}, "This host can run the stack.")


def up_verb(docker: Docker, arguments: argparse.Namespace) -> None:
    """Bring the stack up."""
    report: Report = arguments.report
    report.names = release.STEPS
    changes = release.up(docker, report)
    url = site_url(docker)
    lines = [f"{docker.stack.name} ({docker.stack.env}) is ready: {url}"]
    if changes.admin:
        lines.append(
            f"First admin: user {changes.admin['username']}, password {changes.admin['password']}    (shown only now)"
        )
    text = "\n".join(lines)
    report.done({**changes.as_result(), "url": url, "message": text, "seconds": report.seconds}, text)


def down(docker: Docker, arguments: argparse.Namespace) -> None:
    """Stop and remove the containers, keep the volumes."""
    found = docker.containers()
    docker.compose("down", "--remove-orphans", code="down", remedy=LEFT, ending=found)
    text = (
        f"{docker.stack.project} is down; its data is kept." if found else f"{docker.stack.project} was down already."
    )
    arguments.report.done({"changed": bool(found)}, text)


def destroy(docker: Docker, arguments: argparse.Namespace) -> None:
    """Remove containers, networks and volumes, after the environment's name was given."""
    stack = docker.stack
    confirm(
        stack.env,
        arguments.confirm,
        f"This removes all containers and all data of {stack.env}.",
        f"make destroy ENV={stack.env} CONFIRM={stack.env}    (or ./docker-manage.sh {stack.env} destroy --confirm "
        f"{stack.env})",
    )
    found = docker.containers()
    docker.compose("down", "--remove-orphans", "--volumes", code="down", remedy=LEFT, ending=found)
    # Also those that an older Compose file named.
    label = f"label={PROJECT_LABEL}={stack.project}"
    left = command.run(["docker", "volume", "ls", "--quiet", "--filter", label]).out.split()
    if left:
        command.demand(["docker", "volume", "rm", *left], code="down", remedy="docker ps --all    (who uses it?)")
    (stack.root / admin.RECORD).unlink(missing_ok=True)
    backup_schedule.remove(stack)
    at_boot.remove(stack)
    arguments.report.done({"changed": bool(found or left)}, f"{stack.project} is removed with its data.")


def confirm(env: str, given: str | None, what: str, again: str) -> None:
    """Have what replaces or removes data confirmed by the environment's name.

    Args:
        env: its name.
        given: what was given on the command line; None: it is asked for, where a terminal is there.
        what: a sentence about what would be done.
        again: the command with the confirmation in it.

    Raises:
        UsageError: it was not confirmed.
    """
    if given is None and sys.stdin.isatty():
        print(f"{what} Type {env} to go on: ", end="", file=sys.stderr)
        sys.stderr.flush()
        given = sys.stdin.readline().strip()
    if given is None:
        raise UsageError(f"{what} It wants the name of {env}, since no terminal is there to ask on.", again)
    if given != env:
        raise UsageError(f"Nothing was changed: {given!r} is not the environment's name.", again)


def stop_app(docker: Docker) -> None:
    """End web and the app's other processes, each in its own time; nothing is removed."""
    ending.stop(docker, [item for item in docker.containers() if item.service in docker.stack.app_services])


def migrate(docker: Docker, arguments: argparse.Namespace) -> None:
    """Run the release commands in the running web container."""
    applied: list[str] = []
    release_commands.run_in_place(docker, applied)
    text = f"Applied: {', '.join(applied)}" if applied else "Nothing to migrate."
    arguments.report.done({"changed": bool(applied), "migrations": applied}, text)


def restart(docker: Docker, arguments: argparse.Namespace) -> None:
    """Restart all services, or one, and wait until the site is ready again."""
    stack = docker.stack
    _known(docker, arguments.service)
    before = docker.containers()
    if not before:
        raise EngineError("stopped", f"{stack.project} is not up.", stack.make("deploy"))
    names = [arguments.service] if arguments.service else []
    docker.compose("restart", *names, code="restart", remedy=stack.make("logs"), ending=before)
    for service in names or stack.backing_services:
        readiness.wait_healthy(docker, service, {})
    readiness.wait_ready(docker, {})
    changed = release.compared(before, docker.containers())
    arguments.report.done({"changed": True, "containers": changed}, f"Restarted and ready: {site_url(docker)}")


def ps(docker: Docker, _arguments: argparse.Namespace) -> None:
    """List the containers as Compose does."""
    _become(docker, "ps", "--all")


def logs(docker: Docker, arguments: argparse.Namespace) -> None:
    """Show logs."""
    _known(docker, arguments.service)
    follow = ["--follow"] if arguments.follow else []
    _become(docker, "logs", "--tail", "200", *follow, *([arguments.service] if arguments.service else []))


def shell(docker: Docker, arguments: argparse.Namespace) -> None:
    """Open a shell in a running container."""
    _known(docker, arguments.service)
    service = arguments.service or docker.stack.web
    docker.running(service)
    _become(docker, "exec", *_terminal(), service, *SHELL)


def manage(docker: Docker, arguments: argparse.Namespace) -> None:
    """Run manage.py in the running web container."""
    stack = docker.stack
    docker.running(stack.web)
    _become(docker, "exec", *_terminal(), stack.web, *stack.manage, *arguments.words)


def site_url(docker: Docker) -> str:
    """Give the address that people open: the probe's, by the name that the site answers to."""
    probe = docker.stack.probe
    if docker.stack.has_edge:
        port = probe.url.rpartition(":")[2]
        return f"https://{probe.host}" + ("" if port == "443" else f":{port}")
    return probe.url.replace("127.0.0.1", "localhost") if probe.host == "localhost" else probe.url


def _known(docker: Docker, service: str | None) -> None:
    if service and service not in docker.stack.services:
        raise UsageError(
            f"There is no service {service!r} in {docker.stack.env}; there are: {', '.join(docker.stack.services)}.",
            "repeat the command with one of these",
        )


def _terminal() -> list[str]:
    return [] if sys.stdin.isatty() and sys.stdout.isatty() else ["--no-TTY"]


def _become(docker: Docker, *words: str) -> NoReturn:
    """Hand this process over to Compose, with terminal, signals and exit code."""
    argv = docker.compose_command(*words)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(argv[0], argv, {**os.environ, **docker.env})  # noqa: S606 - no shell is wanted
    except FileNotFoundError:
        raise EngineError("missing", "Docker is not installed: there is no `docker` command.", "make deploy") from None
