"""A host to check, and what is expected of it: everything is read from the files that were rendered for it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from kit_engine import bundle

EDGE = "nginx"
# By service: the port inside its container that must not be reached from outside.
DATA_PORTS = {"db": 5432, "redis": 6379}
TLS_VERSIONS = ("TLSv1.1", "TLSv1.2", "TLSv1.3")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Published:
    """A port that the rendered Compose file publishes; an empty address means every one."""

    service: str
    address: str
    port: int
    inside: int

    @property
    def is_open(self) -> bool:
        """Whether other machines shall reach it."""
        return self.address not in LOOPBACK


@dataclass(frozen=True)
class Target:
    """One host, as role smoke wrote it down.

    Attributes:
        connection: ``transport``, ``address`` and ``arguments`` of ssh.
        become: whether the engine needs root there.
        root: the deploy root there; ``python`` runs the engine.
        bundle: the files that were rendered for it, here.
        project: what the manifest says of it: ``login``, ``smoke``, ``media`` (its URL, empty without), ``static``.
        address: where this machine sees its ports, ``ports`` under which other numbers.
        open_ports: ports of other services that may answer.
        writes: whether checks may write to the site.
        trust_file: authorities that have signed its certificate; empty: those that this machine knows.
        self_signed: whether a certificate that nobody has signed is what is wanted.
    """

    host: str
    env: str
    connection: Mapping[str, Any]
    become: bool
    root: str
    python: str
    bundle: Path
    project: Mapping[str, Any]
    address: str
    ports: Mapping[str, int]
    open_ports: Sequence[int]
    writes: bool
    trust_file: str
    self_signed: bool

    @property
    def is_remote(self) -> bool:
        """Whether it is another machine than this one."""
        return bool(self.connection["transport"] != "local")

    @cached_property
    def stack(self) -> dict[str, Any]:
        """The stack's description."""
        content: dict[str, Any] = json.loads((self.bundle / "stack.json").read_text(encoding="utf-8"))
        return content

    @cached_property
    def compose(self) -> dict[str, Any]:
        """The Compose file."""
        content: dict[str, Any] = yaml.safe_load((self.bundle / self.stack["compose_file"]).read_text(encoding="utf-8"))
        return content

    @property
    def services(self) -> list[str]:
        """Names of all services, in start order."""
        return list(self.stack["services"])

    @property
    def keeps_uploads(self) -> bool:
        """Whether uploads go to a volume of their own."""
        return bool(self.project["media"] and self.stack["app_files"])

    @property
    def has_edge(self) -> bool:
        """Whether nginx stands before the app."""
        return EDGE in self.services

    @cached_property
    def published(self) -> list[Published]:
        """Every port that is published."""
        found = []
        for name, service in self.compose["services"].items():
            for entry in service.get("ports", []):
                *address, port, inside = str(entry).rsplit(":", 2)
                found.append(Published(name, address[0] if address else "", int(port), int(inside)))
        return found

    def expected_hashes(self) -> dict[str, str]:
        """Hash the files that say what should run, as the engine does."""
        names = (self.stack["compose_file"], "stack.json")
        return {name: hashlib.sha256((self.bundle / name).read_bytes()).hexdigest() for name in names}

    def expected_nginx(self) -> str:
        """Hash nginx's files as the engine does; empty without nginx."""
        return bundle.hash_of(self.bundle / "nginx") if self.has_edge else ""

    @cached_property
    def _nginx(self) -> str:
        return "\n".join(path.read_text(encoding="utf-8") for path in sorted((self.bundle / "nginx").rglob("*.conf")))

    @cached_property
    def server_names(self) -> list[str]:
        """The site's names; the first is asked for."""
        host = str(self.stack["probe"]["host"])
        if not self.has_edge:
            return [host]
        words = [
            name for line in re.findall(r"^\s*server_name ([^;]+);", self._nginx, re.MULTILINE) for name in line.split()
        ]
        return list(dict.fromkeys([host, *(name for name in words if name != "_")]))

    @cached_property
    def headers(self) -> dict[str, str]:
        """Headers that nginx puts on every answer, without those whose value differs from answer to answer."""
        path = self.bundle / "nginx/snippets/headers.conf"
        found = re.findall(r'^add_header (\S+) ("[^"]*"|\S+) always;', path.read_text(encoding="utf-8"), re.MULTILINE)
        return {name: value.strip('"') for name, value in found if not value.startswith("$")}

    @cached_property
    def cache_rules(self) -> tuple[str, str, str]:
        """Pattern of names with a content hash, and Cache-Control for those and for all other static files."""
        found = re.search(r'map \$uri \$kit_static_cache \{\s+"~(.+)" "(.+)";\s+default "(.+)";', self._nginx)
        assert found, "nginx/conf.d/default.conf has no map of $kit_static_cache"
        return found[1], found[2], found[3]

    @cached_property
    def tls_versions(self) -> set[str]:
        """Protocol versions that nginx is told to speak."""
        return {
            word for line in re.findall(r"^ssl_protocols ([^;]+);", self._nginx, re.MULTILINE) for word in line.split()
        }

    def seen_port(self, port: int) -> int | None:
        """Give a port's number as this machine sees it; None where no way leads to it."""
        if self.ports:
            return self.ports.get(str(port))
        return port if self.sees_all_ports else None

    @property
    def sees_all_ports(self) -> bool:
        """Whether this machine has a way to every port: not to those of a host behind a forwarded SSH port."""
        return not self.ports and not (self.is_remote and self.address in LOOPBACK)


def read(path: Path) -> list[Target]:
    """Read the plan that role smoke wrote.

    Args:
        path: of the plan.

    Returns:
        Its hosts.
    """
    entries = json.loads(path.read_text(encoding="utf-8"))["hosts"]
    return [Target(**{**entry, "bundle": Path(entry["bundle"])}) for entry in entries]
