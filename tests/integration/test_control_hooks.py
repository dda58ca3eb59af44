"""Hooks of the control node in a deploy as it is typed; the host is this machine, and gets releases as any other."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from kit_control.services import project_name
from support.engine_stack import docker, remove_project
from support.kit import FIXTURE, Run, playbook
from testbed.hosts import free_ports

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# The first deploy builds the app's image and makes every container.
DEPLOY_SECONDS = 300
SECRETS = {"KEY": "canary-" + "k" * 64, "PGPASSWORD": "canary-database-password"}
# Adds its standard input to a file, and says a secret.
NOTE = """
import sys
open(sys.argv[1], 'a').write(sys.stdin.read())
print('the key is', open(sys.argv[2]).read())
raise SystemExit(CODE)
"""


@dataclass(frozen=True)
class Deployed:
    """A project that is deployed to dev on this machine."""

    scratch: Path
    name: str
    port: int

    def deploy(self, *arguments: str, fails: str = "", migrate: str = "manage.py") -> Run:
        """Type a deploy.

        Args:
            arguments: further arguments of ansible-playbook.
            fails: the moment whose hook fails.
            migrate: script of the release command.
        """
        source = self.scratch / "source"
        (self.scratch / "key").write_text(SECRETS["KEY"])
        hooks = {}
        for moment in ("before_backup", "before_migrate", "after_switch", "after_failure"):
            script = NOTE.replace("CODE", str(int(moment == fails)))
            words = [sys.executable, "-c", script, str(self.scratch / "noted"), str(self.scratch / "key")]
            hooks[moment] = [{"run": "control", "command": words}]
        manifest = yaml.safe_load(FIXTURE.read_text())
        commands = {"commands": [["python", migrate, "migrate", "--noinput"]]}
        told = {**manifest, "name": self.name, "hooks": hooks, "release": commands}
        (source / "deploy.yml").write_text(yaml.safe_dump(told))
        inventory = self.scratch / "hosts.yml"
        here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory.write_text(yaml.safe_dump({"app": {"hosts": {"here": here}}}))
        given = {
            "project_manifest": str(source / "deploy.yml"),
            "deploy_root": str(self.scratch / "host"),
            "release_bundle_secret_values": SECRETS,
            "web_port": self.port,
            # Where root runs the tests, sudo need not be there.
            "kit_become": os.geteuid() != 0,
        }
        words = ["-i", str(inventory), *arguments]
        return playbook("deploy", "dev", given, *words, scratch=self.scratch, limit=DEPLOY_SECONDS)

    def noted(self) -> list[dict[str, Any]]:
        """What the hooks were given since the last look."""
        path = self.scratch / "noted"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        path.unlink(missing_ok=True)
        return found

    @property
    def serving(self) -> str:
        """Id of the release that serves."""
        return (self.scratch / "host/current").resolve().name


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """A project with hooks at every moment, not deployed yet; removed whatever happens."""
    scratch = tmp_path_factory.mktemp("control")
    for folder in (scratch, *scratch.parents):
        # pytest's folders are private, and the containers' users are others.
        if folder.stat().st_mode & 0o005 != 0o005 and "pytest" in folder.as_posix():
            folder.chmod(folder.stat().st_mode | 0o055)
    shutil.copytree(FIXTURE.parent, scratch / "source", ignore=shutil.ignore_patterns("__pycache__"))
    made = Deployed(scratch, f"kit_test_{uuid4().hex[:8]}", free_ports(1)[0])
    try:
        yield made
    finally:
        remove_project(project_name(made.name, "dev"))
        images = docker("image", "ls", "--quiet", made.name).split()
        if images:
            docker("image", "rm", "--force", *images)


def test_one_that_fails_before_keeps_the_host_as_it_is(deployed: Deployed) -> None:
    run = deployed.deploy(fails="before_migrate")
    assert run.code != 0
    assert "Hook before_migrate[0]" in run.output, run.output
    assert "No host was changed." in run.output
    assert "the key is ********" in run.output
    assert not (deployed.scratch / "host/current").exists()
    first, failure = deployed.noted()
    assert (first["hook"], failure["hook"], failure["state"]) == ("before_migrate", "after_failure", "failed")
    result = json.loads((deployed.scratch / "build/dev/result.json").read_text())
    assert result["code"] == "hook"


def test_each_runs_once_and_gets_the_record(deployed: Deployed) -> None:
    run = deployed.deploy()
    assert run.code == 0, run.output
    # No backup is asked for.
    before, after = deployed.noted()
    assert (before["hook"], after["hook"]) == ("before_migrate", "after_switch")
    assert before["id"] == after["id"] == deployed.serving
    assert (after["env"], after["state"], after["kind"]) == ("dev", "live", "deploy")
    assert "the key is" not in run.output


def test_nothing_is_run_where_nothing_is_released(deployed: Deployed) -> None:
    for arguments in ((), ("--check",)):
        run = deployed.deploy(*arguments)
        assert run.code == 0, run.output
    assert deployed.noted() == []


def test_one_that_fails_after_is_a_warning(deployed: Deployed) -> None:
    (deployed.scratch / "source/more.py").write_text("x = 1\n")
    run = deployed.deploy(fails="after_switch")
    assert run.code == 0, run.output
    assert "Hook after_switch[0]" in run.output
    assert "the key is ********" in run.output
    assert [one["hook"] for one in deployed.noted()] == ["before_migrate", "after_switch"]
    record = json.loads((deployed.scratch / f"host/records/{deployed.serving}.json").read_text())
    assert "Hook after_switch[0]" in record["warnings"][0]


def test_a_failed_release_is_told(deployed: Deployed) -> None:
    run = deployed.deploy(migrate="no_such_file.py")
    assert run.code != 0
    before, failure = deployed.noted()
    assert (before["hook"], failure["hook"], failure["state"]) == ("before_migrate", "after_failure", "failed")
    assert "no_such_file.py" in failure["reason"]
    assert "Release command `python no_such_file.py" in run.output
    result = json.loads((deployed.scratch / "build/dev/result.json").read_text())
    assert result["code"] == "migrate"
