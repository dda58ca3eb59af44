"""End containers of a stack, and remove them; their volumes stay."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Optional

from kit_engine import command, signals
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError

# What Compose calls a container until the one that it replaces is gone: that one's id comes before the name.
_HALF_MADE = re.compile("[0-9a-f]{12}_")


def stop(docker: Docker, containers: Sequence[Container], seconds: Optional[int] = None) -> None:
    """End containers, each in its own time, all at once."""
    limit = docker.patience(containers)
    words = ["docker", "stop", *([] if seconds is None else ["-t", str(seconds)])]

    def end(item: Container) -> None:
        # One that is gone already is as good.
        command.run([*words, item.id], limit=limit)

    with ThreadPoolExecutor(max_workers=max(1, len(containers))) as at_once:
        list(at_once.map(end, containers))


@contextmanager
def leaving(docker: Docker, containers: Sequence[Container]) -> Iterator[Callable[[], None]]:
    """Have containers end, each in its own time, while the block goes on.

    Args:
        docker: the stack's containers.
        containers: which.

    Returns:
        Waits for their end and removes them; so does a block that fails, since what goes back would take one that is
        on its way out for one that serves. A block that is cut off leaves that to whoever recovers.
    """
    limit = docker.patience(containers)
    with ExitStack() as stopping:
        clients = [stopping.enter_context(command.begun(["docker", "stop", item.id])) for item in containers]

        def gone() -> None:
            for client in clients:
                with suppress(subprocess.TimeoutExpired):
                    client.wait(limit)
            _drop(containers)

        try:
            yield gone
        except EngineError:
            with signals.deferred():
                gone()
            raise


def remove(docker: Docker, containers: Sequence[Container], seconds: Optional[int] = None) -> None:
    """End containers and remove them; their volumes stay.

    Args:
        docker: the stack's containers.
        containers: which.
        seconds: until they are killed; default: the stop_grace_period of each.
    """
    if not containers:
        return
    stop(docker, containers, seconds)
    _drop(containers)


def remove_half_made(docker: Docker) -> None:
    """Remove what a killed Compose had only created: replacing the same one again, it would find that name taken.

    Args:
        docker: the stack's containers.
    """
    remove(docker, [item for item in docker.containers() if item.created and _HALF_MADE.match(item.name)])


def _drop(containers: Sequence[Container]) -> None:
    if containers:
        command.run(["docker", "rm", "--force", *(item.id for item in containers)])
