"""Who holds a port of this host."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Optional

from kit_engine import command, docker_socket
from kit_engine.docker import PROJECT_LABEL

# /proc/net/tcp: state 0A is LISTEN; the addresses are hexadecimal.
LISTEN = "0A"
# A port is "taken" only in the same range of suggestions as users look for one.
SUGGESTIONS = 100


class Listening(NamedTuple):
    """An address and port that somebody listens on, and the socket's number, by which its owner is found."""

    address: str
    port: int
    inode: str


def is_taken(address: str, port: int) -> bool:
    """Tell whether something else listens on an address and port.

    Args:
        address: IPv4 or IPv6 address of this host.
        port: 1 to 65535.

    Returns:
        True only if it is certain; a port that we may not bind (below 1024) counts as free.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Connections that have ended keep their port for a minute; they do not stand in anybody's way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


@dataclass(frozen=True)
class Holder:
    """Who listens on a port.

    Attributes:
        text: such as ``process nginx (pid 812)``; a sentence that says how to find out where we may not see it.
        service: name of the systemd service that it belongs to; empty for none.
    """

    text: str
    service: str = ""


def holder(port: int, proc: Path = Path("/proc")) -> Holder:
    """Find the process that listens on a port.

    Args:
        port: the port.
        proc: where the kernel's process files are.
    """
    inodes = {one.inode for one in listening(proc) if one.port == port}
    pid = _owner(inodes, proc) if inodes else None
    if pid is None:
        return Holder(f"a process of another user (sudo ss -ltnp 'sport = :{port}' names it)")
    try:
        name = (proc / str(pid) / "comm").read_text().strip()
        # Of any version: `9:name=systemd:/…/system.slice/nginx.service`, `0::/system.slice/nginx.service`.
        services = re.findall(
            r"/system\.slice/(?:.*/)?([^/\n]+)\.service$", (proc / str(pid) / "cgroup").read_text(), re.M
        )
    except OSError:
        return Holder(f"process unknown (pid {pid})")
    return Holder(f"process {name} (pid {pid})", services[0] if services else "")


def listening(proc: Path = Path("/proc")) -> Iterator[Listening]:
    """List the TCP ports of this host that somebody listens on.

    Args:
        proc: where the kernel's process files are; nothing is listed where they are not.
    """
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == LISTEN:
                number, _, port = fields[1].partition(":")
                yield Listening(_address(number, family), int(port, 16), fields[9])


def published() -> list[tuple[str, int, str, str]]:
    """List the TCP ports that running containers publish on this host.

    Returns:
        Address, host port, container name and Compose project (may be empty) of each.
    """
    told = docker_socket.get("/containers/json")
    if told is not None:
        return [
            (
                str(port.get("IP", "")),
                int(port["PublicPort"]),
                str(one["Names"][0]).lstrip("/"),
                _project(one["Labels"]),
            )
            for one in told
            for port in one.get("Ports") or ()
            if port.get("PublicPort") and port.get("Type") == "tcp"
        ]
    done = command.run(["docker", "ps", "--no-trunc", "--format", "{{json .}}"])
    taken = []
    for line in done.out.splitlines():
        entry = json.loads(line)
        labels = dict(item.partition("=")[::2] for item in str(entry.get("Labels", "")).split(","))
        for address, port in host_ports(str(entry.get("Ports", ""))):
            taken.append((address, port, str(entry["Names"]), _project(labels)))
    return taken


def _project(labels: Optional[Mapping[str, str]]) -> str:
    return str((labels or {}).get(PROJECT_LABEL, ""))


def host_ports(text: str) -> set[tuple[str, int]]:
    """Read the host's TCP ports from the Ports column of ``docker ps``.

    Args:
        text: such as ``0.0.0.0:8000-8001->80-81/tcp, 5432/tcp``.

    Returns:
        Address and port of each before an arrow.
    """
    found: set[tuple[str, int]] = set()
    for address, first, last in re.findall(r"(?:^|, )(\S+?):(\d+)(?:-(\d+))?->[\d-]+/tcp", text):
        found.update((address.strip("[]"), port) for port in range(int(first), int(last or first) + 1))
    return found


def same_address(one: str, other: str) -> bool:
    """Tell whether a port on one address stands in the way of the same port on another."""
    every = ("", "0.0.0.0", "::")  # noqa: S104 - read, not bound
    return one == other or one in every or other in every


def free_port(address: str, wanted: int) -> int | None:
    """Find the next free port after a taken one; None if the next hundred are taken too."""
    candidates = range(wanted + 1, min(wanted + 1 + SUGGESTIONS, 65536))
    return next((port for port in candidates if not is_taken(address, port)), None)


def _address(number: str, family: int) -> str:
    # Words of 32 bits, each in this machine's own order.
    words = [int(number[at : at + 8], 16) for at in range(0, len(number), 8)]
    return socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words))


def _owner(inodes: set[str], proc: Path) -> int | None:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for folder in sorted(proc.glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            descriptors = list((folder / "fd").iterdir())
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                target = os.readlink(descriptor)  # noqa: PTH115 - Path.readlink() would turn it into a path
            except OSError:
                continue
            if target in wanted:
                return int(folder.name)
    return None
