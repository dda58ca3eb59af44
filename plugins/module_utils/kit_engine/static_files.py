"""A release's static files, on their way to the volume that they are served from, and out of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Optional

from kit_engine import command, one_off, releases
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report

# Of releases that no rollback goes to.
LEFT = ("failed", "abandoned")


def publish(docker: Docker, report: Report, execute: Optional[one_off.Execute] = None) -> None:
    """Bring the release's static files to their volume, before anything of it serves; nothing where it has none.

    Those from an image that no release on this host needs any more go.

    Args:
        docker: the stack's containers.
        report: where it is told what could not be removed.
        execute: runs each command, in a container of the release; default: in a container of its own.

    Raises:
        EngineError: a command failed, such as for want of space.
    """
    stack = docker.stack
    named = (stack.release, *needed(stack.root, stack.release)) if stack.release else ()
    for problem in _publish(docker, execute or partial(one_off.run, docker), *named):
        report.say(f"    warning: static files of earlier releases were not removed, the next deploy tries: {problem}")


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
        _publish(docker, partial(docker.execute, web))


def needed(root: Path, release: str) -> list[str]:
    """Name the other releases on this host whose static files are needed: each may have rendered a page, or will.

    Args:
        root: the deploy root.
        release: the one that is published.

    Returns:
        The one that serves, and all that a rollback may go to.
    """
    served = releases.current(root)
    found = []
    for path in sorted((root / releases.FOLDER).glob("[!.]*")):
        record = releases.read(root, path.name)
        if path.name != release and (path.name == served or record is None or record.state not in LEFT):
            found.append(path.name)
    return found


def _publish(docker: Docker, execute: one_off.Execute, *named: str) -> list[str]:
    """Bring them there; gives what could not be done, and need not be."""
    files = docker.stack.app_files
    if files is None:
        return []

    def demand(*words: str) -> command.Done:
        done = execute(words)
        if done.code:
            raise EngineError(
                "static",
                f"The static files could not be published to {files.static_root}:\n{command.tail(done.err)}",
                "docker system df    (is there space?)",
            )
        return done

    if files.static_source:
        done = demand("python", "/opt/kit/publish_static.py", files.static_source, files.static_root, *named)
        return done.out.splitlines()[1:]
    # The project's build commands collect them from its mounted source.
    for words in files.build_commands:
        demand(*words)
    return []
