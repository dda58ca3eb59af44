"""A project deployed to local by the playbook that users call: a copy of its source, under a name of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml
from kit_control.services import project_name
from kit_control.settings import APP_UID
from testbed.hosts import free_ports

from support.engine_stack import docker, remove_project
from support.kit import ROOT, Run, playbook

# The first deploy builds the app's image: 15 s here, with packages in uv's cache.
DEPLOY_SECONDS = 300


@dataclass(frozen=True)
class LocalStack:
    """A project under test; :meth:`remove` takes everything away again."""

    scratch: Path
    name: str
    web_port: int
    db_port: int

    @property
    def source(self) -> Path:
        """The copy of the project's folder that the containers mount."""
        return self.scratch / "source"

    @property
    def root(self) -> Path:
        """Its deploy root."""
        return self.scratch / "build/local"

    @property
    def project(self) -> str:
        """Name of its Compose project."""
        return project_name(self.name, "local")

    def deploy(self, *arguments: str, **variables: Any) -> Run:
        """Run playbooks/deploy.yml; further variables win over all others."""
        ports = {"web_port": self.web_port, "db_port": self.db_port}
        given = {"project_manifest": str(self.source / "deploy.yml"), **ports, **variables}
        return playbook("deploy", "local", given, *arguments, scratch=self.scratch, limit=DEPLOY_SECONDS)

    def deploy_and_kill(self, seconds: float) -> None:
        """Start a deploy and kill it, and all that it started, without a warning.

        Args:
            seconds: after which.
        """
        extra = self.scratch / "killed.yml"
        given = {"kit_build_root": str(self.scratch / "build"), "project_manifest": str(self.source / "deploy.yml")}
        extra.write_text(yaml.safe_dump({**given, "web_port": self.web_port, "db_port": self.db_port}))
        playbook_program = str(Path(sys.executable).parent / "ansible-playbook")
        words = [playbook_program, "-i", "inventories/local", "-e", f"@{extra}", "playbooks/deploy.yml"]
        # A mark in the environment finds every descendant, whatever session it went to.
        mark = f"KIT_TEST_RUN={uuid4()}"
        environment = {**os.environ, "LC_ALL": "C.UTF-8", **dict([mark.split("=", 1)])}
        nowhere = subprocess.DEVNULL
        with subprocess.Popen(
            words, cwd=ROOT, env=environment, start_new_session=True, stdin=nowhere, stdout=nowhere, stderr=nowhere
        ) as running:
            try:
                running.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                _kill_marked(mark)

    def manage(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Call docker-manage.sh as it stands on a host: beside bin/engine.pyz."""
        script = self.root / "docker-manage.sh"
        shutil.copyfile(ROOT / "docker-manage.sh", script)
        return subprocess.run(
            ["bash", str(script), "local", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEPLOY_SECONDS,
            check=False,
        )

    def get(self, path: str) -> str:
        """Read a page of the running site."""
        with urllib.request.urlopen(f"http://localhost:{self.web_port}{path}", timeout=20) as answer:
            text: str = answer.read().decode()
        return text

    def remove(self) -> None:
        """Remove containers, volumes, networks and images, whatever state they are in."""
        remove_project(self.project)
        images = docker("image", "ls", "--quiet", self.name).split()
        if images:
            docker("image", "rm", "--force", *images)


def _kill_marked(mark: str) -> None:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
        except OSError:
            continue


def make(manifest: Path, scratch: Path) -> LocalStack:
    """Copy a project and give it a name and ports of its own; nothing is started.

    Args:
        manifest: of the project, in the project's folder.
        scratch: an empty folder.
    """
    web_port, db_port = free_ports(2)
    stack = LocalStack(scratch, f"kit_test_{uuid4().hex[:8]}", web_port, db_port)
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache", "media")
    shutil.copytree(manifest.parent, stack.source, ignore=ignored)
    renamed = {**yaml.safe_load(manifest.read_text()), "name": stack.name}
    (stack.source / "deploy.yml").write_text(yaml.safe_dump(renamed))
    for folder in (stack.source, *stack.source.parents):
        # pytest's folders are private, and the app inside is another user.
        if folder.stat().st_uid == os.getuid() and folder != Path(folder.root):
            folder.chmod(folder.stat().st_mode | 0o055)
    return stack


def owners(folder: Path) -> set[int]:
    """Users that own something below a folder, without what belongs to the app's user."""
    return {path.lstat().st_uid for path in folder.rglob("*")} - {APP_UID}
