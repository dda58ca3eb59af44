"""Maintenance: nginx answers 503 and a page, but to addresses that are let in, on health paths and for static files.

nginx looks for one file at each request (nginx/conf.d/default.conf.j2), so that going in and out needs no reload, and
both outlast a reload, a restart and a release. Only another list of addresses, or another Retry-After, is read by a
reload.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Union

from kit_engine import command, edge, lock, prepare, releases, signals
from kit_engine.docker import Docker
from kit_engine.errors import EngineError, UsageError
from kit_engine.stack import CURRENT, EDGE, Stack

# Where the Compose file mounts prepare.MAINTENANCE.
MOUNTED = "/etc/nginx/maintenance"
# There while it is on; holds what the verb was told.
ON = "on"
# Who is let in, as nginx reads it; and the text that nginx was last seen to have read.
VISITORS, LOADED = "visitors.conf", ".visitors.loaded"
RETRY_AFTER_SECONDS = 300
LONGEST_SECONDS = 86400

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


def maintenance_verb(docker: Docker, arguments: argparse.Namespace) -> None:
    """Go in or out; each call in says all: who is let in, and when others may come again."""
    stack = docker.stack
    if not stack.has_edge:
        raise UsageError(
            f"{stack.project} has no nginx, which would answer in the site's place. Nothing was changed.",
            f"{stack.make('down')}    (stops it and keeps its data)",
        )
    if arguments.state == "on":
        allowed = networks(arguments.allow)
        if not 1 <= arguments.retry_after <= LONGEST_SECONDS:
            raise UsageError(
                f"--retry-after {arguments.retry_after}: seconds from 1 to {LONGEST_SECONDS} are allowed. "
                "Nothing was changed.",
                stack.make("maintenance", "ON=1", f"RETRY_AFTER={RETRY_AFTER_SECONDS}"),
            )
        changed = turn_on(docker, allowed, arguments.retry_after)
    else:
        changed = (_folder(stack.root) / ON).is_file()
        (_folder(stack.root) / ON).unlink(missing_ok=True)
    told = state(stack.root)
    text = f"{stack.name} ({stack.env}): maintenance is " + (line(told) if told else "off")
    if told:
        text += f"\nNext: {stack.make('maintenance', 'ON=0')}    (lets everybody in again)"
    arguments.report.done({"changed": changed, "maintenance": told}, text)


def networks(given: str) -> list[Network]:
    """Read addresses and networks.

    Args:
        given: with commas or spaces between them.

    Returns:
        Each once.

    Raises:
        UsageError: one is none, or is everybody; the message lists all mistakes.
    """
    found: list[Network] = []
    mistakes = []
    for word in given.replace(",", " ").split():
        try:
            network = ipaddress.ip_network(word)
        except ValueError as error:
            mistakes.append(f"  - {error}")
            continue
        if network.prefixlen == 0:
            mistakes.append(f"  - {word} is everybody")
        found.append(network)
    if mistakes:
        raise UsageError(
            "These are no addresses or networks that can be let in; nothing was changed:\n" + "\n".join(mistakes),
            "repeat the command with addresses such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32",
        )
    return list(dict.fromkeys(found))


def turn_on(docker: Docker, allowed: Sequence[Network], retry_after: int) -> bool:
    """Have nginx answer with the page.

    Args:
        docker: the stack's containers.
        allowed: who sees the site all the same.
        retry_after: seconds after which the others may come again.

    Returns:
        Whether that differs from before.

    Raises:
        EngineError: nginx does not take the list, or was started before it could; all is as before.
    """
    root = docker.stack.root
    before = state(root)
    prepare.public_folder(root, prepare.MAINTENANCE)
    with signals.deferred():
        _let_in(docker, visitors(allowed, retry_after))
        now = {
            "since": before["since"] if before else releases.now(),
            "who": before["who"] if before else lock.caller(),
            "allow": [_short(network) for network in allowed],
            "retry_after_seconds": retry_after,
        }
        if now != before:
            releases.replace(_folder(root) / ON, json.dumps(now) + "\n")
    return now != before


def state(root: Path) -> Optional[dict[str, Any]]:
    """Tell how maintenance is.

    Args:
        root: the deploy root.

    Returns:
        ``since``, ``who``, ``allow`` and ``retry_after_seconds``; None while it is off.
    """
    try:
        text = (_folder(root) / ON).read_text(encoding="utf-8")
    except OSError:
        return None
    try:
        told = json.loads(text)
    except ValueError:
        told = None
    # For nginx the file counts, whatever is in it.
    unknown: dict[str, Any] = {"since": "", "who": "", "allow": [], "retry_after_seconds": RETRY_AFTER_SECONDS}
    return {**unknown, **told} if isinstance(told, dict) else unknown


def is_on(stack: Stack) -> bool:
    """Tell whether visitors get the page."""
    return stack.has_edge and (_folder(stack.root) / ON).is_file()


def line(told: dict[str, Any]) -> str:
    """Write in one line how maintenance is.

    Args:
        told: of :func:`state`, while it is on.
    """
    since = f" since {told['since']}" if told["since"] else ""
    who = f" (by {told['who']})" if told["who"] else ""
    let_in = ", ".join(told["allow"]) or "nobody"
    return f"on{since}{who}: 503 with Retry-After {told['retry_after_seconds']}; {let_in} sees the site"


def visitors(allowed: Sequence[Network], retry_after: int) -> str:
    """Write for nginx who is let in.

    Args:
        allowed: who sees the site.
        retry_after: seconds after which the others may come again.

    Returns:
        A block whose value is an address's Retry-After, and empty for one that sees the site.
    """
    rows = [f"    default {retry_after};", *(f'    {network} "";' for network in allowed)]
    return "\n".join(["geo $kit_retry_after {", *rows, "}"]) + "\n"


def _let_in(docker: Docker, text: str) -> None:
    """Bring a list of visitors to nginx, by a reload where it runs and has not read it yet."""
    folder = _folder(docker.stack.root)
    path = folder / VISITORS
    before = path.read_text(encoding="utf-8") if path.is_file() else None
    nginx = next((item for item in docker.of(EDGE) if item.running), None)
    if nginx and docker.execute(nginx, ("test", "-d", MOUNTED), limit=command.QUICK_SECONDS).code:
        raise EngineError(
            "restart_needed",
            "nginx was started by a release that knew no maintenance, and cannot see that it is wanted. "
            "Nothing was changed.",
            docker.stack.make("deploy", "ALLOW_RESTART=nginx"),
        )
    if before == text and _read(folder / LOADED) == text:
        return
    _write(path, text)
    try:
        if nginx:
            test = ("nginx", "-t", "-q", "-c", f"{edge.MOUNTED}/{CURRENT}/nginx.conf")
            done = docker.execute(nginx, test, limit=command.QUICK_SECONDS)
            if done.code:
                raise EngineError(
                    "nginx",
                    f"nginx refuses the list of addresses; nothing was changed:\n{command.tail(done.err or done.out)}",
                    docker.stack.make("status"),
                )
            edge.reload(docker, nginx)
    except BaseException:
        if before is None:
            path.unlink()
        else:
            _write(path, before)
        raise
    _write(folder / LOADED, text)


def _write(path: Path, text: str) -> None:
    releases.replace(path, text)
    # nginx's user reads it, whatever our umask is.
    path.chmod(0o644)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _short(network: Network) -> str:
    """An address without the length of its prefix, as people write it."""
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def _folder(root: Path) -> Path:
    return root / prepare.MAINTENANCE
