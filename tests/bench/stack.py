"""A complete prod stack on a test-bed host of its own, brought there as docs/OPERATIONS.md says."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kit_control import manifest
from kit_control.services import project_name
from support import checkout
from support.checkout import Checkout
from support.kit import EXAMPLE
from testbed.hosts import Host, borrowed
from testbed.project import DOMAIN, inventory_variables

from bench.figures import proportional_set

NAME = manifest.load(EXAMPLE).name
ROOT = f"/srv/{NAME}"
SITE = DOMAIN
# Of the host, besides 80 and 443: what only the bench publishes there.
GUNICORN_PORT, BARE_PORT = 8008, 8009


@dataclass(frozen=True)
class Stack:
    """A host that serves.

    Attributes:
        kit: the copy that deploys to it.
        host: the host; its ports stand on loopback addresses of this machine.
        sockets: folder of the connections that Ansible leaves open.
    """

    kit: Checkout
    host: Host
    sockets: Path

    @property
    def project(self) -> str:
        """Name of its Compose project."""
        return project_name(NAME, "prod")

    def make(self, target: str, arguments: str = "") -> str:
        """Type make for the host; returns what it printed."""
        more = f" ARGS='{arguments}'" if arguments else ""
        variables = {"ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.sockets)}
        return self.kit.type(f"make {target} ENV=prod INVENTORY=hosts.yml{more}", variables)

    def hang_up(self) -> None:
        """End the connections that Ansible left open."""
        for socket in self.sockets.glob("*"):
            words = ["ssh", "-F", "none", "-S", str(socket), "-O", "exit", "any"]
            subprocess.run(words, capture_output=True, timeout=10, check=False)

    def root(self, script: str, seconds: float = 60) -> str:
        """Run a script on the host as root; returns what it printed."""
        return self.host.run("sudo bash -eu -s", stdin=script.encode(), timeout=seconds).stdout

    def idle_mb(self) -> dict[str, float]:
        """Measure the memory of each service: the proportional set size of all processes in its containers."""
        listed = self.root(
            "docker ps --format '{{.ID}} {{.Label \"com.docker.compose.service\"}}' "
            f"--filter label=com.docker.compose.project={self.project}"
        )
        found: dict[str, float] = {}
        for line in listed.splitlines():
            container, service = line.split()
            told = self.root(f"docker top {container} -eo pid | sed 1d | xargs -I% cat /proc/%/smaps_rollup")
            found[service] = found.get(service, 0.0) + proportional_set(told)
        return dict(sorted(found.items()))


@contextmanager
def deployed(scratch: Path) -> Iterator[Stack]:
    """Bring it up, and remove it in the end.

    Args:
        scratch: a folder that is not there yet.
    """
    variables = {
        **inventory_variables(EXAMPLE),
        "host_setup_open_ports": ["ssh", 80, 443, GUNICORN_PORT, BARE_PORT],
    }
    kit = checkout.copy(scratch)
    # The paths of sockets are short, or the kernel does not take them.
    with (
        tempfile.TemporaryDirectory(prefix="kit-bench-") as sockets,
        borrowed(publish=(80, 443, GUNICORN_PORT, BARE_PORT), variables=variables) as run,
    ):
        shutil.copyfile(run.inventory, kit.path / "hosts.yml")
        (kit.path / ".git/info/exclude").write_text(".venv\nhosts.yml\n")
        stack = Stack(kit, run.hosts[0], Path(sockets))
        try:
            for target in ("secrets", "provision", "deploy"):
                stack.make(target)
            yield stack
        finally:
            stack.hang_up()
