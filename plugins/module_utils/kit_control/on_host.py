"""The daily commands on a host over SSH: `python -m kit_control.on_host --env prod logs web`; make gives the rest.

A thin caller of the host's own docker-manage.sh, so that both ways do the same.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit_control import remote_hosts, unreachable_host
from kit_control.errors import KitError
from kit_control.remote_hosts import RemoteHost

ROOT = Path(__file__).resolve().parents[3]
# Of ssh itself; and of our own line there, apart from the exit codes of engine and shell.
_SSH, _NO_RELEASE, _NO_SUDO = 255, 95, 96
# A status takes a host under a second; one that is on its knees shall not keep the others from the screen for long.
_STATUS_SECONDS, _LOOK_SECONDS = 60, 30
_LOOK = f"""test -x "$1/docker-manage.sh" || exit {_NO_RELEASE}
test "$(id -u)" = 0 || sudo -n true || exit {_NO_SUDO}"""
_MANAGE = """root=$1; shift; s=; test "$(id -u)" = 0 || s='sudo -n'
exec $s "$root/docker-manage.sh" "$@\""""


@dataclass(frozen=True)
class _Asked:
    env: str
    verb: str
    words: tuple[str, ...]


def main(argv: Sequence[str]) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name.

    Returns:
        The command's own exit code; 1 for a host that cannot be asked, 2 for wrong usage.
    """
    parser = argparse.ArgumentParser(prog="on_host", allow_abbrev=False)
    parser.add_argument("--env", required=True)
    parser.add_argument("--inventory", default="")
    parser.add_argument("--manifest", default="")
    parser.add_argument("--host", default="", help="where the inventory has several")
    parser.add_argument("verb")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    given = parser.parse_args(argv)
    asked = _Asked(given.env, given.verb, tuple(given.words))
    # The working tree's manifest names the deploy root too; an export of the version would only take time.
    extra: dict[str, Any] = {"project_dirty": True}
    if given.manifest:
        extra["project_manifest"] = str(Path(given.manifest).resolve())
    try:
        hosts = remote_hosts.load(ROOT, asked.env, given.inventory, extra)
        if asked.verb == "status":
            wanted = [remote_hosts.choose(hosts, given.host, "status")] if given.host else hosts
            return status(wanted, asked)
        return hand_over(remote_hosts.choose(hosts, given.host, f"{asked.verb} ENV={asked.env}"), asked)
    except KitError as error:
        print(f"{asked.verb}: {error}", file=sys.stderr)
        return 2 if error.code == "host" else 1
    except KeyboardInterrupt:
        return 130


def hand_over(host: RemoteHost, asked: _Asked) -> int:
    """Run a command there with this terminal, input and output."""
    look(host, asked.env)
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    # A quick command has a limit of its own on the host; a shell or a log that is followed has none, and needs none.
    code = subprocess.run(  # noqa: S603 - an argument list of our own
        host.command(_manage(host, asked), terminal=terminal), check=False
    ).returncode
    if code == _SSH:
        raise KitError(
            "unreachable", f"The connection to host {host.name} ({host.address}) broke off.", "repeat the command"
        )
    return code


def status(hosts: Sequence[RemoteHost], asked: _Asked) -> int:
    """Show one block for each host, in the inventory's order, whatever is wrong with the others.

    Args:
        hosts: which.
        asked: the verb's own words, such as ``--json``.

    Returns:
        0, or 1 where a host could not tell.
    """
    with ThreadPoolExecutor(max_workers=min(len(hosts), 16)) as pool:
        answers = list(pool.map(lambda host: _status_of(host, asked), hosts))
    if "--json" in asked.words:
        told = {host.name: json.loads(answer.out) for host, answer in zip(hosts, answers, strict=True)}
        print(json.dumps({"ok": all(answer.good for answer in answers), "verb": "status", "hosts": told}))
    else:
        for host, answer in zip(hosts, answers, strict=True):
            print(f"{host.name} at {host.address}")
            print("\n".join(f"  {line}" for line in answer.out.splitlines()))
        sys.stdout.flush()
        bad = [host.name for host, answer in zip(hosts, answers, strict=True) if not answer.good]
        if bad:
            print(f"status: no answer from {', '.join(bad)} (see above)", file=sys.stderr)
    return 0 if all(answer.good for answer in answers) else 1


def look(host: RemoteHost, env: str) -> None:
    """Make sure that a command can be run there at all, so that the reason is told in our words.

    Args:
        host: where.
        env: for the advice.

    Raises:
        KitError: the host is not reachable, holds no release, or its login user may not become root.
    """
    done = _captured(host, ["sh", "-c", _LOOK, "kit", host.root], _LOOK_SECONDS)
    if done.returncode == _NO_RELEASE:
        raise KitError(
            "stopped",
            f"Host {host.name} holds no release: {host.root} has no docker-manage.sh.",
            f"make deploy ENV={env}",
        )
    if done.returncode == _NO_SUDO:
        raise KitError(
            "sudo",
            f"The login user may not become root on {host.name}:\n    {unreachable_host.last_line(done.stderr)}",
            f"ssh {host.address}    (allow it sudo without a password)",
        )
    if done.returncode:
        raise host.explain(done.stderr)


@dataclass(frozen=True)
class _Answer:
    good: bool
    out: str


def _status_of(host: RemoteHost, asked: _Asked) -> _Answer:
    try:
        look(host, asked.env)
        done = _captured(host, _manage(host, asked), _STATUS_SECONDS)
        if done.returncode == 0:
            return _Answer(True, done.stdout)
        if "--json" in asked.words and done.stdout.startswith("{"):
            return _Answer(False, done.stdout)
        # The engine's own error names cause and next command.
        return _Answer(False, done.stderr or done.stdout)
    except KitError as error:
        if "--json" not in asked.words:
            return _Answer(False, str(error))
        told: dict[str, Any] = {"ok": False, "code": error.code, "problem": error.problem, "next": error.remedy}
        return _Answer(False, json.dumps(told))


def _captured(host: RemoteHost, words: Sequence[str], limit: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - an argument list of our own
            host.command(words, terminal=False),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
        )
    except FileNotFoundError:
        raise KitError("missing", f"There is no `{host.ssh[0]}` on this machine.", "apt-get install ssh") from None
    except subprocess.TimeoutExpired:
        raise KitError(
            "timeout",
            f"Host {host.name} ({host.address}) was given {limit:.0f} s and has not answered.",
            f"ssh {host.address}    (is it busy?)",
        ) from None


def _manage(host: RemoteHost, asked: _Asked) -> list[str]:
    return ["sh", "-c", _MANAGE, "kit", host.root, asked.env, asked.verb, *asked.words]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
