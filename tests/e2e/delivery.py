"""A project whose images are delivered to a test-bed host by the kit's own roles."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from support.kit import FIXTURE, ROOT
from testbed.hosts import Run

PLAYBOOK = ROOT / "tests/e2e/deliver.yml"
# The whole image takes 20 s on 2 cores that also run other tests.
LIMIT_SECONDS = 300
IMAGES = ("app", "redis")


@dataclass
class Delivery:
    """A copy of the fixture project, and a host that gets its images.

    Attributes:
        run: the host's run of the test bed.
        scratch: folder for the project, variables and the folder of pieces.
        made: references of the app's images that were built.
    """

    run: Run
    scratch: Path
    made: set[str]

    @classmethod
    def prepare(cls, run: Run, scratch: Path) -> Delivery:
        """Copy the project; its name is its own, so that its images are."""
        shutil.copytree(FIXTURE.parent, scratch / "project")
        manifest = scratch / "project/deploy.yml"
        name = f"kit_test_{run.id}"
        manifest.write_text(manifest.read_text().replace("name: guestbook", f"name: {name}", 1))
        return cls(run, scratch, set())

    @property
    def root(self) -> str:
        """The deploy root on the host."""
        return f"/srv/kit_test_{self.run.id}"

    @property
    def cache(self) -> Path:
        """The folder of pieces."""
        return self.scratch / "build/layers"

    def change_a_line(self) -> None:
        """Change the project's code."""
        with (self.scratch / "project/manage.py").open("a") as file:
            file.write(f"# {time.monotonic_ns()}\n")

    def words(self, variables: Mapping[str, Any]) -> list[str]:
        """The command that delivers; variables travel in a file."""
        wiring = yaml.safe_load((ROOT / "playbooks/group_vars/all/kit.yml").read_text())
        given = {
            **wiring,
            "kit_root": str(ROOT),
            "kit_build_root": str(self.scratch / "build"),
            "project_manifest": str(self.scratch / "project/deploy.yml"),
            "project_dirty": True,
            # The environment's own decision, and the images that `make test` has built.
            "base_images_source": "auto",
            "base_images_database_by_choice": False,
            "base_images_wanted": ["python", "redis"],
            "base_images_record_path": str(ROOT / "build/test/records/base_images.json"),
            "release_bundle_checked": {"images": list(IMAGES)},
            "test_result": str(self.scratch / "result.json"),
            **variables,
        }
        extra = self.scratch / "extra.yml"
        extra.touch(mode=0o600)
        extra.write_text(yaml.safe_dump(given))
        ansible = str(Path(sys.executable).parent / "ansible-playbook")
        return [ansible, "-i", "inventories/prod", "-i", str(self.run.inventory), "-e", f"@{extra}", str(PLAYBOOK)]

    def start(self) -> subprocess.Popen[str]:
        """Begin to deliver."""
        return subprocess.Popen(
            self.words({}), cwd=ROOT, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def deliver(self, *, succeeds: bool = True, **variables: Any) -> tuple[dict[str, Any], str]:
        """Deliver; gives what the role told, and everything that was printed."""
        result = self.scratch / "result.json"
        result.unlink(missing_ok=True)
        done = subprocess.run(
            self.words(variables), cwd=ROOT, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=LIMIT_SECONDS, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) == succeeds, done.stdout
        told: dict[str, Any] = json.loads(result.read_text()) if result.is_file() else {}
        self.made |= {ref for ref in told.get("delivered", []) if ref.startswith(f"kit_test_{self.run.id}:")}
        return told, done.stdout

    def docker(self, *words: str) -> str:
        """Run `docker` on the host; its output."""
        return self.run.hosts[0].run(f"sudo docker {' '.join(words)}").stdout.strip()

    def remove(self) -> None:
        """Remove the images that were built here; their layers may be others' too."""
        listed = subprocess.run(
            ["docker", "image", "ls", "--quiet", f"kit_test_{self.run.id}"], capture_output=True, text=True, check=True
        ).stdout.split()
        if listed:
            subprocess.run(["docker", "image", "rm", "--force", *set(listed)], capture_output=True, check=False)


def _environment() -> dict[str, str]:
    return {**os.environ, "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"}
