"""The verbs that bring a stack up: check, prepare, database, release commands, app, readiness, first admin."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from kit_engine import (
    admin,
    cache_password,
    command,
    current,
    database_password,
    edge,
    hooks,
    preflight,
    prepare,
    readiness,
    release_commands,
    signals,
    static_files,
    synced_source,
)
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report
from kit_engine.stack import EDGE

# As `up` goes through them; the plural "services" of a step are named in the result.
STEPS = ("check", "database", "migrate", "start", "ready")
AFTER_MENDING = "    (after mending what is named above)"


@dataclass
class Changes:
    """What differs from before.

    Attributes:
        containers: what happened by container name: ``created started``.
        migrations: those that were applied.
        prepared: what was made, handed over or set: files, folders, the database role's password.
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


def up(docker: Docker, report: Report, *, is_new: bool = False) -> Changes:
    """Bring the stack up; nothing changes where it is up already.

    Args:
        docker: the stack's containers.
        report: where steps are told.
        is_new: whether a release is deployed, so that the project's hooks run.

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
        other_source = synced_source.sync(stack)
        if other_source:
            changes.prepared.append("shared/source")
        restarts = {container.id: container.restarts for container in before}
        wanted = current.fingerprints(docker)
        unchanged = current.services(docker, before, wanted)
        anew = current.with_other_secrets(docker, before)
        nginx = next((item for item in before if item.service == EDGE and EDGE in unchanged), None)
        other_edge = edge.stage(docker, nginx)
        if other_edge:
            changes.prepared.append("shared/nginx/conf")
    with report.step("database"):
        remake(docker, before, stack.backing_services, anew)
        if not set(stack.backing_services) <= unchanged:
            start(docker, stack.backing_services, there=before)
        for service in stack.backing_services:
            readiness.wait_healthy(docker, service, restarts)
        # A release may follow one that failed, which gave the role another password and left the container as it was.
        asks = stack.database is not None and (bool(stack.release) or stack.database.service not in unchanged)
        if asks and database_password.ensure(docker):
            changes.prepared.append("the database role's password")
        if stack.release:
            cache_password.ensure(docker)
        # One that ends since its database was away is not to blame, and may note that later than we do: once more.
        settled = before if all(container.well for container in before) else docker.containers()
        restarts = {container.id: container.restarts + 1 for container in settled}
    with report.step("migrate"):
        web = [container for container in before if container.service == stack.web and stack.web in unchanged]
        commands = release_commands.run_if_needed(
            docker, web, wanted[stack.web], lambda: hooks.demand(docker, hooks.BEFORE_MIGRATE) if is_new else None
        )
        changes.migrations = commands.migrations
    with report.step("start"):
        if other_source or stack.web not in unchanged:
            static_files.publish(docker, report)
        if stack.has_edge:
            edge.lead_to(stack)
        remake(docker, settled, stack.services[len(stack.backing_services) :], anew)
        if other_edge and nginx is None:
            edge.link(stack)
        if not set(stack.services) <= unchanged:
            start(docker, stack.services, "--remove-orphans", there=settled)
        if other_edge:
            # From the link to the new workers: it ends with nginx on one set, the new or the old.
            with signals.deferred():
                edge.activate(docker, settled)
        if other_source:
            reload(docker, settled)
    with report.step("ready"):
        readiness.wait_ready(docker, restarts)
        for service in stack.app_services[1:]:
            readiness.wait_healthy(docker, service, restarts)
        if commands.ran:
            release_commands.remember(
                docker, release_commands.fingerprint(docker, docker.running(stack.web), wanted[stack.web])
            )
        changes.admin = admin.ensure(docker, bool(changes.migrations))
        after = docker.containers()
        current.remember(docker, after, wanted)
    changes.containers = compared(before, after)
    return changes


def reload(docker: Docker, containers: list[Container]) -> None:
    """Have the app's running processes read their source anew: web without a gap, the others by a restart.

    Args:
        docker: the stack's containers.
        containers: those that ran before the source changed.

    Raises:
        EngineError: the engine refused.
    """
    remedy = docker.stack.make("logs")
    there = {item.id for item in docker.containers()}
    old = [item for item in containers if item.running and item.id in there]
    for item in old:
        if item.service == docker.stack.web:
            told = docker.hang_up(item)
            if told.code:
                raise EngineError("reload", f"{item.name} cannot be told to reload:\n{command.tail(told.err)}", remedy)
    others = sorted({item.service for item in old if item.service in docker.stack.app_services[1:]})
    if others:
        docker.compose("restart", *others, code="reload", remedy=remedy, ending=old)


def start(docker: Docker, services: tuple[str, ...], *flags: str, there: Sequence[Container] = ()) -> None:
    """Create and start services in the background; nothing is built or pulled.

    Args:
        docker: the stack's containers.
        services: which; nothing happens without one.
        flags: further flags of ``docker compose up``.
        there: containers that may have to end first, each in its own time.

    Raises:
        EngineError: Compose or the engine refused.
    """
    if not services:
        return
    words = ("up", "--detach", "--no-build", "--pull", "never", "--quiet-pull", *flags, *services)
    docker.compose(*words, code="start", remedy=docker.stack.make("deploy") + AFTER_MENDING, ending=there)


def start_created(docker: Docker, containers: list[Container]) -> None:
    """Start those of some containers that were created and never started, all at once.

    Args:
        docker: the stack's containers.
        containers: which.

    Raises:
        EngineError: the engine refused.
    """

    def begin(item: Container) -> None:
        limit, remedy = docker.stack.limits.command_timeout_seconds, docker.stack.make("deploy") + AFTER_MENDING
        command.demand(["docker", "start", item.name], code="start", remedy=remedy, limit=limit)

    created = [item for item in containers if item.created]
    with ThreadPoolExecutor(max_workers=max(1, len(created))) as at_once:
        list(at_once.map(begin, created))


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
    again = tuple(service for service in services if service in broken | anew)
    start(docker, again, "--no-deps", "--force-recreate", there=containers)


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
