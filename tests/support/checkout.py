"""A copy of this checkout as a git repository of its own, where tests type make as users do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from support.kit import ROOT

# A first deploy to an empty host brings all images: 60 s alone on 2 cores.
MAKE_SECONDS = 600


@dataclass(frozen=True)
class Checkout:
    """A copy; its build/ and vaults are its own, its .venv is this checkout's."""

    path: Path

    def type(
        self, command: str, variables: Mapping[str, str], *, check: bool = True, limit: float = MAKE_SECONDS
    ) -> str:
        """Type a command as a page shows it.

        Args:
            command: a line for the shell.
            variables: environment variables on top of our own.
            check: whether it must succeed.
            limit: seconds after which it is ended.

        Returns:
            What it printed, errors included.
        """
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.path,
            env={**environment(), "ANSIBLE_NOCOLOR": "1", **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
            check=False,
        )
        said = f"{command} ended with {done.returncode}:\n{done.stdout}"
        assert (done.returncode == 0) is check, said
        return done.stdout

    def commit(self, subject: str) -> str:
        """Commit everything; returns the commit's id."""
        self._git("add", "--all")
        self._git("commit", "--quiet", "--message", subject)
        return self._git("rev-parse", "HEAD").strip()

    def secrets(self, env: str) -> dict[str, str]:
        """Read an environment's vault."""
        vault = self.path / f"inventories/{env}/group_vars/all/vault.yml"
        words = [str(self.path / ".venv/bin/ansible-vault"), "view", str(vault)]
        words += ["--vault-password-file", str(self.path / f".vault/{env}")]
        text = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
        return dict(re.findall(r"^  (\w+): '?(.*?)'?$", text, re.MULTILINE))

    def _git(self, *words: str) -> str:
        who = ["-c", "user.name=Kit Test", "-c", "user.email=test@example.com"]
        done = subprocess.run(
            ["git", "-C", str(self.path), *who, *words], capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout


def copy(target: Path) -> Checkout:
    """Copy what git tracks, and what is new, into a repository with one commit.

    Args:
        target: a folder that is not there yet.

    Returns:
        The copy.
    """
    words = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            # With its time: make would think that the locks are newer than .venv.
            shutil.copy2(ROOT / name, target / name)
    (target / ".venv").symlink_to(ROOT / ".venv")
    # Packed layers of images cost seconds to make, and are the same for all.
    (ROOT / "build/layers").mkdir(parents=True, exist_ok=True)
    (target / "build").mkdir()
    (target / "build/layers").symlink_to(ROOT / "build/layers")
    checkout = Checkout(target)
    subprocess.run(["git", "init", "--quiet", str(target)], timeout=60, check=True)
    (target / ".git/info/exclude").write_text(".venv\n")
    checkout.commit("start")
    return checkout


def changed(output: str) -> set[int]:
    """Read how many tasks changed something, from each line of a play's recap."""
    return {int(number) for number in re.findall(r"\bchanged=(\d+)", output.partition("PLAY RECAP")[2])}


def environment() -> dict[str, str]:
    """Give the variables that a command is typed with."""
    # What make told the tests, and a vault of whoever runs them, is not meant for the copy.
    given = re.findall(r"(?:^|\s)(\w+)=", os.environ.get("MAKEFLAGS", "").partition("-- ")[2])
    unwanted = {"MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "ANSIBLE_VAULT_PASSWORD_FILE", *given}
    return {name: value for name, value in os.environ.items() if name not in unwanted}
