"""The machine's Docker engine, through its command line."""

import json
import subprocess
from pathlib import Path

from testbed.errors import TestbedError
from testbed.flags import EngineFacts, bounding_set


def docker(*arguments: str, stdin: bytes | None = None, timeout: float = 120) -> str:
    """Run one docker command.

    Args:
        arguments: words after `docker`.
        stdin: bytes for its standard input.
        timeout: seconds after which it is ended.

    Returns:
        Its standard output without the last newline.

    Raises:
        TestbedError: docker is missing, failed or took too long.
    """
    words = ["docker", *arguments]
    try:
        done = subprocess.run(words, input=stdin, capture_output=True, timeout=timeout, check=False)
    except FileNotFoundError:
        raise TestbedError(
            "The test bed found no `docker` on PATH; its hosts are containers.",
            "make deploy    (installs an engine), or install Docker by hand",
        ) from None
    except subprocess.TimeoutExpired:
        raise TestbedError(f"`docker {arguments[0]}` gave no answer within {timeout:.0f} s.", "docker info") from None
    if done.returncode:
        raise TestbedError(f"`{' '.join(words)}` failed: {done.stderr.decode(errors='replace').strip()}", "docker info")
    return done.stdout.decode(errors="replace").rstrip("\n")


def lines(*arguments: str) -> list[str]:
    """Run one docker command and split what it prints.

    Args:
        arguments: words after `docker`.

    Returns:
        Its lines; none for an empty output.
    """
    return docker(*arguments).splitlines()


def facts() -> EngineFacts:
    """Ask engine and machine what the options of a host depend on.

    Returns:
        The facts. The bounding set is this process's own: the machine's, or, inside a container, a smaller
        one, which only drops a capability that hosts can do without.

    Raises:
        TestbedError: no engine answers.
    """
    version = json.loads(docker("info", "--format", "{{json .CgroupVersion}}"))
    if version not in ("1", "2"):
        raise TestbedError(
            f"The Docker engine tells cgroup version {version!r}; the test bed knows 1 and 2.", "docker info"
        )
    return EngineFacts(int(version), bounding_set(Path("/proc/self/status").read_text()))
