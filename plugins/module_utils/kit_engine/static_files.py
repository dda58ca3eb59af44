"""A release's static files, on their way to the volume that they are served from."""

from __future__ import annotations

from functools import partial
from typing import Optional

from kit_engine import command, one_off
from kit_engine.docker import Docker
from kit_engine.errors import EngineError


def publish(docker: Docker, execute: Optional[one_off.Execute] = None) -> None:
    """Bring the release's static files to their volume, before anything of it serves; nothing where it has none.

    Args:
        docker: the stack's containers.
        execute: runs each command, in a container of the release; default: in a container of its own.

    Raises:
        EngineError: a command failed, such as for want of space.
    """
    files = docker.stack.app_files
    if files is None:
        return
    # Without a source the project's build commands collect them from its mounted source.
    copy = ("python", "/opt/kit/publish_static.py", files.static_source or "", files.static_root)
    execute = execute or partial(one_off.run, docker)
    for words in (copy,) if files.static_source else files.build_commands:
        done = execute(words)
        if done.code:
            raise EngineError(
                "static",
                f"The static files could not be published to {files.static_root}:\n{command.tail(done.err)}",
                "docker system df    (is there space?)",
            )


def publish_again(docker: Docker) -> None:
    """Publish those of a release whose web runs: another's may lie under the names that have no hash.

    Args:
        docker: the release.

    Raises:
        EngineError: a command failed, such as for want of space.
    """
    stack = docker.stack
    web = next((item for item in docker.of(stack.web) if item.running and item.release == stack.release), None)
    if web:
        # Executed in it, since a container's start takes longer than all of this.
        publish(docker, partial(docker.execute, web))
