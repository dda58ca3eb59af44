"""Run the kit's playbooks as a user does, into a scratch folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "app/deploy.yml"
FIXTURE = ROOT / "tests/fixtures/guestbook/deploy.yml"
ENVIRONMENTS = ("local", "dev", "prod")
IMAGES = {
    "app": "registry.example.com/app:1",
    "postgres": "registry.example.com/postgres:16",
    "redis": "registry.example.com/redis:8",
    "nginx": "registry.example.com/nginx:1",
}
# A playbook that only renders takes 3 s here; ten times that tells a hang from a slow machine.
TIMEOUT_SECONDS = 60


Rendered = Callable[..., Path]
"""Fixture that renders an environment and returns its bundle's folder; see tests/render/conftest.py."""


@dataclass(frozen=True)
class Run:
    """What a playbook printed, and how it ended."""

    code: int
    output: str


def playbook(
    name: str, env: str, variables: Mapping[str, Any], *arguments: str, scratch: Path, limit: float = TIMEOUT_SECONDS
) -> Run:
    """Run a playbook with extra variables.

    Args:
        name: its file name without ending.
        env: name of the environment, or a path of an inventory folder.
        variables: extra variables; they travel in a file, never as arguments.
        arguments: further arguments of ansible-playbook.
        scratch: an empty folder for the variables and for build/.
        limit: seconds after which it is ended.

    Returns:
        Exit code and everything it printed.
    """
    extra = scratch / "extra.yml"
    extra.write_text(yaml.safe_dump({"kit_build_root": str(scratch / "build"), "project_dirty": True, **variables}))
    inventory = env if "/" in env else f"inventories/{env}"
    command = [
        str(Path(sys.executable).parent / "ansible-playbook"),
        "-i",
        inventory,
        "-e",
        f"@{extra}",
        *arguments,
    ]
    # Somebody who works here may have secrets of the environment; the password of a vault that is read is wanted.
    password = ROOT / ".vault" / env
    vault = {"ANSIBLE_VAULT_PASSWORD_FILE": str(password)} if "/" not in env and password.is_file() else {}
    done = subprocess.run(
        [*command, f"playbooks/{name}.yml"],
        cwd=ROOT,
        env={**os.environ, **vault, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "false", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
        check=False,
    )
    return Run(done.returncode, done.stdout)


def copy_inventory(env: str, target: Path) -> None:
    """Copy an environment's folder, without the secrets of whoever works here."""
    shutil.copytree(ROOT / "inventories" / env, target, ignore=shutil.ignore_patterns("vault.yml"))


def written_below(folder: Path) -> set[str]:
    """Name the files below a build folder, but for the result that each run ends with."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {
        f"{env}/result.json" for env in ENVIRONMENTS
    }


def secret_tokens(manifest: Path) -> dict[str, str]:
    """Give each secret of a manifest a readable stand-in, ``<secret:NAME>``."""
    variables: dict[str, dict[str, Any]] = yaml.safe_load(manifest.read_text())["variables"]
    names = [name for name, variable in variables.items() if variable.get("secret") and "from" not in variable]
    names += [name for name, variable in variables.items() if variable.get("from") == "database.password"]
    return {name: f"<secret:{name}>" for name in [*names, "REDIS_PASSWORD"]}


def plain_values(manifest: Path) -> dict[str, str]:
    """Give each required variable of a manifest that only an inventory can fill a readable value, ``value-of-NAME``."""
    form = {"email": "value-of-{}@example.com", "url": "https://value-of-{}.example.com"}
    variables: dict[str, dict[str, Any]] = yaml.safe_load(manifest.read_text())["variables"]
    return {
        name: form.get(variable["type"], "value-of-{}").format(name)
        for name, variable in variables.items()
        if variable.get("required") and not variable.get("secret") and not {"from", "default"} & set(variable)
    }


def compose_of(bundle: Path) -> dict[str, Any]:
    """Read a bundle's Compose file."""
    (path,) = bundle.glob("docker-compose.*.yml")
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content
