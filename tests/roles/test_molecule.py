"""Each role's molecule scenario: in check mode, for real, a second time without a change, and what it left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from kit_control.services import project_name
from support import local_stack
from support.certificates import authorities, issue
from support.engine import app_image, base_image, bring
from support.engine_stack import remove_project
from support.kit import FIXTURE, ROOT
from testbed.hosts import Host, borrowed

# 10 s to 50 s were measured on 2 busy cores; a registry that swallows packets costs a minute more.
LOCAL_SECONDS = 300
# An engine is installed from Debian's mirror.
HOST_SECONDS = 600
LOCAL = ("base_images", "app_image", "release_bundle", "tls")
# What builds on each other, in this order, on one host or with one project.
ON_A_BARE_HOST = (
    ("host_setup", "default"),
    ("host_setup", "alternative"),
    ("docker_host", "default"),
    ("docker_host", "alternative"),
)
WITH_A_PROJECT = ("preflight", "release", "smoke")


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What scenarios read: a copy of the second project under a name of its own; all that is made of it is removed."""
    scratch = tmp_path_factory.mktemp("project")
    stack = local_stack.make(FIXTURE, scratch)
    (scratch / "certificates").mkdir()
    issued = issue(["site.test"], authorities())
    for name, content in (("chain", issued.chain), ("key", issued.key_pem), ("root", issued.root)):
        (scratch / f"certificates/{name}.pem").write_text(content)
    yield {
        "KIT_TEST_MANIFEST": str(stack.source / "deploy.yml"),
        "KIT_TEST_PORT": str(stack.web_port),
        "KIT_TEST_CERTIFICATES": str(scratch / "certificates"),
    }
    remove_project(project_name(stack.name, "molecule"))
    stack.remove()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A Debian 12 host that is bare at first; its folder is an inventory with the wiring that all scenarios share."""
    with borrowed(distro="bookworm") as run:
        (run.folder / "molecule").mkdir()
        (run.folder / "molecule/hosts.yml").symlink_to(run.inventory)
        (run.folder / "molecule/group_vars").symlink_to(ROOT / ".config/molecule/inventory/group_vars")
        yield run.hosts[0]


@pytest.fixture(scope="module")
def images(host: Host, variables: dict[str, str]) -> None:
    """The images of the project on the host, once it has an engine."""
    app = app_image(Path(variables["KIT_TEST_MANIFEST"]), "release")
    bring(host.ssh_words, [app, base_image("python"), base_image("postgres")])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scratch folder of scenarios that build on each other."""
    folder = tmp_path_factory.mktemp("shared")
    folder.chmod(0o755)
    return folder


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("role", LOCAL)
def test_role_on_this_machine(role: str, variables: dict[str, str], tmp_path: Path) -> None:
    run_scenario(role, "default", tmp_path, variables, LOCAL_SECONDS)


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("role", LOCAL)
def test_alternative_on_this_machine(role: str, variables: dict[str, str], tmp_path: Path) -> None:
    run_scenario(role, "alternative", tmp_path, variables, LOCAL_SECONDS)


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("role", WITH_A_PROJECT)
def test_alternative_with_a_project(role: str, variables: dict[str, str], shared: Path, tmp_path: Path) -> None:
    run_scenario(role, "alternative", tmp_path, {**variables, "KIT_TEST_SCRATCH": str(shared / "local")}, LOCAL_SECONDS)


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.parametrize(("role", "scenario"), ON_A_BARE_HOST)
def test_role_on_a_bare_host(
    role: str, scenario: str, host: Host, variables: dict[str, str], shared: Path, tmp_path: Path
) -> None:
    run_scenario(role, scenario, tmp_path, on_host(host, variables, shared), HOST_SECONDS)


@pytest.mark.host
@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("role", WITH_A_PROJECT)
def test_role_on_a_host_with_an_engine(
    role: str, host: Host, variables: dict[str, str], shared: Path, tmp_path: Path
) -> None:
    run_scenario(role, "default", tmp_path, on_host(host, variables, shared), HOST_SECONDS)


def on_host(host: Host, variables: Mapping[str, str], shared: Path) -> dict[str, str]:
    """Variables for scenarios on a host."""
    return {**variables, "KIT_TEST_INVENTORY": str(host.folder / "molecule"), "KIT_TEST_SCRATCH": str(shared / "host")}


def run_scenario(role: str, scenario: str, scratch: Path, variables: Mapping[str, str], limit: float) -> None:
    """Run a scenario of a role; molecule's output is the message where it fails.

    Args:
        role: name of the role.
        scenario: `default` or `alternative`.
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
    words = [str(programs / "molecule"), "test", f"--scenario-name={scenario}", "--no-command-borders"]
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
