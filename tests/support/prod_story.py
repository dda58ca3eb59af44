"""The complete prod stack on an empty host that is reached by SSH alone, as its users bring it there."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml
from kit_control import manifest
from testbed.hosts import Host
from testbed.project import DOMAIN, inventory_variables

from support import site
from support.checkout import Checkout
from support.kit import EXAMPLE, FIXTURE

PROJECT = manifest.load(EXAMPLE).name
ROOT = f"/srv/{PROJECT}"


@dataclass
class Story:
    """A host, the copy of the kit that deploys to it, and all that was printed so far."""

    kit: Checkout
    host: Host
    said: list[str] = field(default_factory=list)

    def type(self, command: str, variables: Mapping[str, str] | None = None, *, check: bool = True) -> str:
        """Type a command; Ansible says all that it ever says, and what was printed is kept."""
        loud = {"ANSIBLE_VERBOSITY": "4", "ANSIBLE_DIFF_ALWAYS": "1"}
        told = self.kit.type(command, {**loud, **(variables or {})}, check=check)
        self.said.append(told)
        return told

    def make(self, *words: str, env: str = "prod", inventory: str = "hosts.yml", check: bool = True) -> str:
        """Type make for the host."""
        return self.type(shlex.join(["make", *words, f"ENV={env}", f"INVENTORY={inventory}"]), check=check)

    def guest(self, name: str, **variables: object) -> str:
        """Write an inventory that brings the second project to the same host; returns its name."""
        inventory = yaml.safe_load((self.kit.path / "hosts.yml").read_text())
        given = {**inventory_variables(FIXTURE), "app_domains": ["localhost"], **variables}
        inventory["app"]["hosts"][self.host.name].update(given)
        (self.kit.path / name).write_text(yaml.safe_dump(inventory))
        return name

    def containers(self) -> dict[str, str]:
        """Id of each service's container."""
        told = self.host.run(
            "sudo docker ps --no-trunc --format '{{.Label \"com.docker.compose.service\"}} {{.ID}}' "
            f"--filter label=com.docker.compose.project={PROJECT.replace('_', '-')}-prod"
        ).stdout
        return dict(line.split() for line in told.splitlines())

    def ask(self, path: str) -> tuple[int, bytes]:
        """Ask the site from here, over TLS."""
        answer, body = site.ask(self.host.ports[443], path, host=DOMAIN)
        return answer.status, body

    def release(self) -> str:
        """The release that answers."""
        status, body = self.ask("/health/ready")
        assert status == 200, body
        return str(json.loads(body)["release"])
