"""Each role's molecule scenario: in check mode, for real, a second time without a change, and what it left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from support.engine_stack import docker
from support.kit import FIXTURE, ROOT
from testbed.hosts import borrowed

# 10 s to 50 s were measured on 2 busy cores; a registry that swallows packets costs a minute more.
LOCAL_SECONDS = 300
# An engine is installed from Debian's mirror.
HOST_SECONDS = 600


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """Manifest of a copy of the second project under a name of its own; its images are removed."""
    name = f"kit_test_{uuid4().hex[:8]}"
    shutil.copytree(FIXTURE.parent, tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    manifest = tmp_path / "source/deploy.yml"
    manifest.write_text(yaml.safe_dump({**yaml.safe_load(FIXTURE.read_text()), "name": name}))
    yield manifest
    images = docker("image", "ls", "--quiet", name).split()
    if images:
        docker("image", "rm", "--force", *images)


@pytest.fixture
def bookworm() -> Iterator[Path]:
    """Inventory of a fresh Debian 12 host without an engine."""
    with borrowed(distro="bookworm") as run:
        yield run.inventory


@pytest.mark.engine
@pytest.mark.parametrize("role", ["base_images", "app_image", "release_bundle", "tls"])
def test_role_on_this_machine(role: str, project: Path, tmp_path: Path) -> None:
    run_scenario(role, tmp_path, {"KIT_TEST_MANIFEST": str(project)}, LOCAL_SECONDS)


@pytest.mark.host
@pytest.mark.slow
def test_docker_host_on_a_fresh_host(bookworm: Path, tmp_path: Path) -> None:
    run_scenario("docker_host", tmp_path, {"KIT_TEST_INVENTORY": str(bookworm)}, HOST_SECONDS)


def run_scenario(role: str, scratch: Path, variables: Mapping[str, str], limit: float) -> None:
    """Run a role's scenario `default`; molecule's output is the message where it fails.

    Args:
        role: name of the role.
        scratch: an empty folder for all that the scenario writes on this machine.
        variables: environment variables that the scenario reads.
        limit: seconds after which it is ended.
    """
    programs = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "NO_COLOR": "1",
        "LC_ALL": "C.UTF-8",
        "MOLECULE_EPHEMERAL_DIRECTORY": str(scratch / "molecule"),
        **variables,
    }
    words = [str(programs / "molecule"), "test", "--scenario-name=default", "--no-command-borders"]
    with subprocess.Popen(
        words,
        cwd=ROOT / "roles" / role,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as molecule:
        try:
            output = molecule.communicate(timeout=limit)[0]
        except subprocess.TimeoutExpired:
            # Its whole session, or ansible-playbook would go on.
            os.killpg(molecule.pid, signal.SIGKILL)
            pytest.fail(f"no end within {limit:.0f} s:\n{molecule.communicate()[0]}")
    assert molecule.returncode == 0, output
    # To molecule, a playbook that is not there is no failure.
    assert "Missing playbook" not in output, output
