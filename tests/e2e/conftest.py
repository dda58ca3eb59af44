"""Hosts that several files need."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from support import checkout
from support.kit import EXAMPLE, FIXTURE
from support.prod_story import Story
from testbed.fixtures import distros
from testbed.hosts import Host, borrowed
from testbed.project import inventory_variables

PACKAGES = "docker.io docker-cli docker-compose iptables"
INSTALL_SECONDS = 300


@pytest.fixture(scope="session")
def engine_host() -> Iterator[Host]:
    """A host with an engine and Compose, nothing of the project, and a login that may not use sudo.

    No file changes it for the others.
    """
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


@pytest.fixture(scope="module", params=distros())
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """An empty host, watched for secrets from its first to its last moment."""
    kit = checkout.copy(tmp_path_factory.mktemp("kit") / "checkout")
    with borrowed(distro=request.param, publish=(80, 443), variables=inventory_variables(EXAMPLE)) as run:
        shutil.copyfile(run.inventory, kit.path / "hosts.yml")
        (kit.path / ".git/info/exclude").write_text(".venv\nhosts.yml\nguest.yml\nintruder.yml\n")
        yield Story(kit, run.hosts[0])
