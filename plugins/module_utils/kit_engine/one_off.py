"""Commands in containers of the app's image that serve nobody: one for a command, or one that waits for several.

Each carries a label, by which the next run removes what one that was killed has left, and the command with it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Optional

from kit_engine import command, signals
from kit_engine.command import Done
from kit_engine.docker import Docker
from kit_engine.errors import EngineError

# Runs a command; gives exit code and output.
Execute = Callable[[tuple[str, ...]], Done]
LABEL = "kit.one_off"
# An end for one that nobody removes; longer than any backup that it waits for, and all commands after it.
LIFE_SECONDS = 24 * 3600
# What Docker's client ends with where a program is not there or may not be executed, and how it says so.
_NOT_EXECUTED, _SAID = (126, 127), "exec failed"
# Ended by SIGKILL, as a shell counts it.
_KILLED = 137


def run(docker: Docker, words: tuple[str, ...], *, stdin: Optional[str] = None, limit: Optional[float] = None) -> Done:
    """Run a command in a new container of the app's image, and remove that container whatever happens.

    Args:
        docker: the stack's containers.
        words: the command.
        stdin: text for its standard input.
        limit: seconds, the container's start included; default is the stack's ``command_timeout_seconds``.

    Returns:
        Exit code and output.

    Raises:
        EngineError: it took too long.
    """
    name = f"{docker.stack.project}-release-{os.getpid()}"
    try:
        return command.run(
            _words(docker, name, "--no-TTY", words=words),
            limit=docker.stack.limits.command_timeout_seconds if limit is None else limit,
            stdin=stdin,
            env=docker.env,
        )
    except BaseException:
        # The client is gone, its container is not.
        command.run(["docker", "rm", "--force", name])
        raise


class Waiting:
    """A container like web's that only waits, for commands to be executed in it without a start of their own.

    Args:
        docker: the stack's containers.
    """

    def __init__(self, docker: Docker) -> None:
        self._docker = docker
        self._name = f"{docker.stack.project}-waiting-{os.getpid()}"
        self._starting = command.begin(
            _words(docker, self._name, "--detach", words=("sleep", str(LIFE_SECONDS))), docker.env
        )
        self._runs = self._removed = False

    def execute(self, words: tuple[str, ...]) -> Done:
        """Run a command in it; one that is ended by its limit ends for good when the container is removed.

        Args:
            words: the command.

        Returns:
            Exit code and output; where the command itself could not say why it failed, that follows what it said.

        Raises:
            EngineError: the container did not start, or the command took too long.
        """
        if not self._runs:
            self._demand_started()
        limit = self._docker.stack.limits.command_timeout_seconds
        done = command.run(["docker", "exec", self._name, *words], limit=limit)
        return Done(done.code, done.out, f"{done.err}\n{self._why(words, done)}") if done.code else done

    def remove(self) -> None:
        """Remove it, and with it whatever runs in it still; once is enough."""
        if self._removed:
            return
        limit = self._docker.stack.limits.command_timeout_seconds
        if self._starting.poll() is None:
            # Before its end, there may be nothing to remove yet.
            with suppress(subprocess.TimeoutExpired):
                self._starting.communicate(timeout=limit)
            self._starting.kill()
        with self._starting:
            command.run(["docker", "rm", "--force", "--volumes", self._name])
        self._removed = True

    def _demand_started(self) -> None:
        stack = self._docker.stack
        limit = stack.limits.command_timeout_seconds
        try:
            said = self._starting.communicate(timeout=limit)[1].decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            said = f"docker compose run was given {limit:.0f} s"
        if self._starting.returncode != 0:
            raise EngineError(
                "start",
                f"The container for the release commands did not start:\n{command.tail(said)}",
                f"mend what is named above, then: {stack.make('deploy')}",
            )
        self._runs = True

    def _why(self, words: tuple[str, ...], done: Done) -> str:
        if done.code in _NOT_EXECUTED and _SAID in done.err + done.out:
            return f"The app's image has no program {words[0]}, or it may not be executed."
        # Docker notes an end a moment after it; what nothing can be executed in any more has ended.
        if command.run(["docker", "exec", self._name, "sleep", "0"]).code:
            return "The container that it ran in ended meanwhile: somebody or Docker ended it."
        if done.code == _KILLED:
            return "It was killed: most often since it needs more memory than web may take (release_bundle_limits)."
        return ""


@contextmanager
def waiting(docker: Docker) -> Iterator[Waiting]:
    """Have a container wait for commands until the block is left; its start changes nothing and is not waited for.

    Args:
        docker: the stack's containers; secrets and folders that web mounts are in place.

    Returns:
        The container, which may still be starting.
    """
    made = None
    try:
        # Who is ended between its start and here would leave it to nobody.
        with signals.deferred():
            made = Waiting(docker)
        yield made
    finally:
        if made:
            with signals.deferred():
                made.remove()


def remove_left(docker: Docker) -> None:
    """Remove those of earlier runs; the caller holds the host's lock, so nobody waits for them."""
    label = f"label={LABEL}={docker.stack.project}"
    found = command.run(["docker", "ps", "--all", "--quiet", "--filter", label]).out.split()
    if found:
        command.run(["docker", "rm", "--force", "--volumes", *found])


def _words(docker: Docker, name: str, *flags: str, words: tuple[str, ...]) -> list[str]:
    label = f"{LABEL}={docker.stack.project}"
    own = ("--rm", "--no-deps", "--name", name, "--label", label)
    return docker.compose_command("run", *own, *flags, docker.stack.web, *words)
