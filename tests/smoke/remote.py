"""The host of a target: the engine's verbs over testinfra, and ports of its loopback over SSH."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import testinfra

from smoke.target import Target

# The facts take a busy host 2 s, a start of Django inside a container 10 s.
VERB_SECONDS = 60
TUNNEL_SECONDS = 15.0


class NoAnswer(Exception):  # noqa: N818 - it is a finding, and reads as one
    """The host, or the engine on it, gave no answer; the text says what was said."""


class Remote:
    """Calls the engine on a target's host.

    Args:
        target: which.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        if target.is_remote:
            self._host = testinfra.get_host(
                f"ssh://{target.connection['address']}", ssh_extra_args=shlex.join(target.connection["arguments"])
            )
        else:
            self._host = testinfra.get_host("local://")

    def verb(self, name: str, **request: Any) -> dict[str, Any]:
        """Call a verb.

        Args:
            name: of the verb.
            request: of the verb.

        Returns:
            Its answer.

        Raises:
            NoAnswer: there was none, or it was a failure.
        """
        target = self.target
        words = [target.python, f"{target.root}/bin/engine.pyz", "--root", target.root, name, "--json"]
        words += ["--request", json.dumps(request)]
        if target.become:
            words = ["sudo", "-n", *words]
        if target.is_remote:
            words = ["timeout", str(VERB_SECONDS), *words]
        try:
            done = self._host.run(shlex.join(words).replace("%", "%%"))
        except RuntimeError as error:
            raise NoAnswer(f"ssh could not reach it:\n{error}") from None
        try:
            told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        except (IndexError, ValueError):
            raise NoAnswer(
                f"the engine ended with {done.rc}:\n{(done.stderr or done.stdout).strip()[-1000:]}"
            ) from None
        if told.get("code") == "usage":
            raise NoAnswer(f"its engine is older than this kit: make deploy ENV={target.env} brings the newer one")
        if not told["ok"]:
            raise NoAnswer(f"{told['problem']}\nNext: {told['next']}")
        return told

    @contextmanager
    def tunnel(self, port: int) -> Iterator[int]:
        """Reach a port of the host's loopback.

        Args:
            port: there.

        Yields:
            A port of this machine's loopback that leads to it.

        Raises:
            NoAnswer: SSH does not forward it.
        """
        with socket.create_server(("127.0.0.1", 0)) as free:
            here = int(free.getsockname()[1])
        connection = self.target.connection
        # A session of its own, which ends with the process.
        words = ["ssh", "-S", "none", "-N", "-oExitOnForwardFailure=yes", f"-L127.0.0.1:{here}:127.0.0.1:{port}"]
        words += [*connection["arguments"], connection["address"]]
        with subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as running:
            try:
                _wait(here, running)
                yield here
            finally:
                running.terminate()


def _wait(port: int, running: subprocess.Popen[str]) -> None:
    end = time.monotonic() + TUNNEL_SECONDS
    while time.monotonic() < end and running.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    running.terminate()
    raise NoAnswer(f"ssh does not forward a port: {running.communicate()[1].strip()[-500:]}")
