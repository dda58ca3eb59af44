"""A host with an engine that several files need, none of which changes it for the others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.kit import FIXTURE
from testbed.hosts import Host, borrowed
from testbed.project import inventory_variables

PACKAGES = "docker.io docker-cli docker-compose iptables"
INSTALL_SECONDS = 300


@pytest.fixture(scope="session")
def engine_host() -> Iterator[Host]:
    """A host with an engine and Compose, nothing of the project, and a login that may not use sudo."""
    variables = {**inventory_variables(FIXTURE), "app_image_delivery": "build"}
    with borrowed(variables=variables) as run:
        (host,) = run.hosts
        host.run(
            "sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive "
            f"apt-get install -y -qq --no-install-recommends {PACKAGES} >/dev/null",
            timeout=INSTALL_SECONDS,
        )
        host.run(
            "sudo useradd --create-home --shell /bin/bash visitor;"
            "sudo cp -r ~/.ssh /home/visitor/ && sudo chown -R visitor: /home/visitor/.ssh"
        )
        yield host
