"""The verbs that bring a stack up: check, prepare, database, release commands, app, readiness, first admin."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from kit_engine import admin, command, current, preflight, prepare, readiness, release_commands
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report
from kit_engine.stack import AppFiles

# As `up` goes through them; the plural "services" of a step are named in the result.
STEPS = ("check", "database", "migrate", "start", "ready")


@dataclass
class Changes:
    """What differs from before.

    Attributes:
        containers: what happened by container name: ``created started``.
        migrations: those that were applied.
        prepared: files and folders that were made or handed over.
        admin: user name and password of the first admin, if it was created.
    """

    containers: dict[str, str] = field(default_factory=dict)
    migrations: list[str] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)
    admin: dict[str, str] | None = None

    @property
    def any(self) -> bool:
        """Whether anything changed at all."""
        return bool(self.containers or self.migrations or self.prepared or self.admin)

    def as_result(self) -> dict[str, Any]:
        """Give it as part of the JSON result."""
        return {"changed": self.any, **asdict(self)}


def up(docker: Docker, report: Report) -> Changes:
    """Bring the stack up; nothing changes where it is up already.

    Args:
        docker: the stack's containers.
        report: where steps are told.

    Returns:
        What changed.

    Raises:
        EngineError: a step failed; what ran before it runs on.
    """
    stack = docker.stack
    changes = Changes()
    with report.step("check"):
        before = preflight.check(docker)
        prepare.folders(stack)
        if prepare.secrets(docker):
            changes.prepared.append("shared/secrets")
        if stack.source:
            changes.prepared += prepare.writable_paths(stack.source)
        restarts = {container.id: container.restarts for container in before}
        wanted = current.fingerprints(docker)
        unchanged = current.services(docker, before, wanted)
        anew = current.with_other_secrets(docker, before)
    with report.step("database"):
        remake(docker, before, stack.backing_services, anew)
        if not set(stack.backing_services) <= unchanged:
            start(docker, stack.backing_services)
        for service in stack.backing_services:
            readiness.wait_healthy(docker, service, restarts)
    with report.step("migrate"):
        web = [container for container in before if container.service == stack.web and stack.web in unchanged]
        commands = release_commands.run_if_needed(docker, web, wanted[stack.web])
        changes.migrations = commands.migrations
    with report.step("start"):
        if stack.app_files and stack.web not in unchanged:
            publish_static(docker, stack.app_files)
        remake(docker, before, stack.services[len(stack.backing_services) :], anew)
        if not set(stack.services) <= unchanged:
            start(docker, stack.services, "--remove-orphans")
    with report.step("ready"):
        readiness.wait_ready(docker, restarts)
        for service in stack.app_services[1:]:
            readiness.wait_healthy(docker, service, restarts)
        if commands.ran:
            release_commands.remember(docker, wanted[stack.web])
        changes.admin = admin.ensure(docker, bool(changes.migrations))
        after = docker.containers()
        current.remember(docker, after, wanted)
    changes.containers = compared(before, after)
    return changes


def publish_static(docker: Docker, files: AppFiles) -> None:
    """Copy the new image's static files to their volume, before anything of it serves.

    Args:
        docker: the stack's containers.
        files: from where to where.

    Raises:
        EngineError: the copy failed, such as for want of space.
    """
    words = ("python", "/opt/kit/publish_static.py", files.static_source, files.static_root)
    done = release_commands.one_off(docker, words)
    if done.code:
        raise EngineError(
            "static",
            f"The static files could not be published to {files.static_root}:\n{command.tail(done.err)}",
            "docker system df    (is there space?)",
        )


def start(docker: Docker, services: tuple[str, ...], *flags: str) -> None:
    """Create and start services in the background; nothing is built or pulled.

    Args:
        docker: the stack's containers.
        services: which; nothing happens without one.
        flags: further flags of ``docker compose up``.

    Raises:
        EngineError: Compose or the engine refused.
    """
    if not services:
        return
    words = ("up", "--detach", "--no-build", "--pull", "never", "--quiet-pull", *flags, *services)
    docker.compose(*words, code="start", remedy=docker.stack.make("deploy") + "    (after mending what is named above)")


def remake(docker: Docker, containers: list[Container], services: tuple[str, ...], anew: set[str]) -> None:
    """Replace containers that Compose would leave: in a restart loop since an earlier failure, or with old secrets.

    Args:
        docker: the stack's containers.
        containers: all that there are.
        services: whose to look at. Their data lies in volumes, which stay.
        anew: those that have other secrets now.

    Raises:
        EngineError: Compose or the engine refused.
    """
    broken = {container.service for container in containers if container.in_restart_loop}
    start(docker, tuple(service for service in services if service in broken | anew), "--no-deps", "--force-recreate")


def compared(before: list[Container], after: list[Container]) -> dict[str, str]:
    """Tell what happened to containers between two looks at them."""
    old = {container.id: container for container in before}
    happened = {
        container.name: "created" if container.id not in old else "started"
        for container in after
        if container.id not in old or container.started != old[container.id].started
    }
    kept = {container.id for container in after} | {container.name for container in after}
    return {**happened, **{c.name: "removed" for c in before if c.id not in kept and c.name not in kept}}
