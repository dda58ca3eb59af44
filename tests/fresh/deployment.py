"""A fresh host with the committed state of the repository, deployed by the README's commands."""

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from testbed.hosts import CHECKOUT, Host

from fresh.documented import MARK, commands

PROJECT = "project"
# Where output and times stay after the hosts are gone.
LOGS = CHECKOUT / "build" / "fresh"
# Twice the promised 4 minutes: beyond it nothing more is learnt from waiting.
DEPLOY_TIMEOUT_SECONDS = 480

# What `make deploy` shows once: 24 characters of URL-safe base64.
_PASSWORD = re.compile(r"password\b[^\n]*?(?<![\w-])([\w-]{24})(?![\w-])", re.IGNORECASE)


@dataclass(frozen=True)
class Deployed:
    """A host after the README's commands.

    Attributes:
        host: the host.
        output: what they printed.
        seconds: how long they took.
        record: keeps a named number for the report, in JUnit and under build/fresh.
    """

    host: Host
    output: str
    seconds: float
    record: Callable[[str, float], None]

    @property
    def password(self) -> str:
        """The first admin's password, as shown."""
        found = set(_PASSWORD.findall(self.output))
        assert len(found) == 1, f"{len(found)} passwords shown by the first deploy, one expected:\n{self.output}"
        return str(found.pop())

    def run(self, command: str, timeout: float = 120) -> str:
        """Run a command in the project's folder, as its reader would.

        Args:
            command: a command line.
            timeout: seconds after which it is ended.

        Returns:
            What it printed, errors included.

        Raises:
            TestbedError: it failed.
        """
        return self.host.run(f"set -eu -o pipefail; cd {PROJECT}; {{ {command}\n}} 2>&1", timeout=timeout).stdout


def _copy_repository(host: Host) -> None:
    # A shallow copy travels at once and works from a checkout that is itself shallow.
    with tempfile.TemporaryDirectory() as folder:
        words = ["git", "clone", "--quiet", "--bare", "--depth", "1", f"file://{CHECKOUT}", f"{folder}/source.git"]
        subprocess.run(words, check=True, capture_output=True)
        archive = subprocess.run(
            ["tar", "-C", folder, "-cz", "--owner=0", "--group=0", "source.git"], check=True, capture_output=True
        ).stdout
    host.run(f"tar -xz && git clone --quiet source.git {PROJECT}", stdin=archive)


@pytest.fixture(scope="module")
def deployed(fresh_host: Host, record_testsuite_property: Callable[[str, object], None]) -> Deployed:
    """The README's commands, run once per release by an unprivileged user with sudo."""
    logs = LOGS / fresh_host.distro
    logs.mkdir(parents=True, exist_ok=True)
    times: dict[str, float] = {}

    def record(name: str, seconds: float) -> None:
        times[name] = round(seconds, 1)
        record_testsuite_property(f"{fresh_host.distro}.{name}_seconds", times[name])
        (logs / "seconds.json").write_text(json.dumps(times) + "\n")

    _copy_repository(fresh_host)
    typed = commands(CHECKOUT / "README.md", marked_only=True)
    assert "make deploy" in typed, f"README.md: `make deploy` is missing under {MARK}"
    script = "\n".join(["set -eu -o pipefail", f"cd {PROJECT}", "exec 2>&1", *typed])
    begun = time.monotonic()
    done = fresh_host.run(script, timeout=DEPLOY_TIMEOUT_SECONDS, check=False)
    seconds = time.monotonic() - begun
    Path(logs / "first-deploy.log").write_text(_PASSWORD.sub("password: (shown once)", done.stdout))
    record("first_deploy", seconds)
    if done.returncode:
        pytest.fail(f"exit status {done.returncode} after {seconds:.0f} s:\n{done.stdout[-8000:]}", pytrace=False)
    return Deployed(fresh_host, done.stdout, seconds, record)
