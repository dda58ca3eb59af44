"""From one release to another without a gap.

The new release's web containers start beside those that serve, and are asked by their own sockets. Then the link that
nginx finds sockets by is led to theirs, which is the switch. The old ones finish what they have in hand, and go.

Every part brings about a state and can be repeated: a rollback, and the next run after one that was cut off, go the
same way (docs/ARCHITECTURE.md).
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from kit_engine import (
    backup,
    backup_prune,
    cache_password,
    current,
    database,
    database_password,
    edge,
    ending,
    hooks,
    one_off,
    pending,
    preflight,
    prepare,
    readiness,
    release,
    release_commands,
    releases,
    signals,
    static_files,
)
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report
from kit_engine.stack import EDGE

STEPS = ("check", "database", "backup", "migrate", "start", "healthy", "switch", "drain", "workers", "ready")
# Of a release that is only to be brought back.
CONVERGE = STEPS[STEPS.index("start") :]


@dataclass
class Wanted:
    """What a release was asked to do on its way.

    Attributes:
        restarts: services that may be made anew although that leaves a gap.
        backup: whether the database is backed up before the release commands.
        commands: whether the release commands run; a rollback leaves the schema as it is.
    """

    restarts: frozenset[str] = frozenset()
    backup: bool = False
    commands: bool = True

    def steps(self, docker: Docker) -> tuple[str, ...]:
        """Name the steps from beginning to end."""
        left_out = {
            "backup": not self.backup or docker.stack.backed_up is None,
            "migrate": not self.commands,
        }
        return (*(name for name in STEPS if not left_out.get(name, False)), *hooks.steps(docker))


@dataclass
class Prepared:
    """What a release did before the switch.

    Attributes:
        migrations: those that were applied.
        backup: what is known of the backup; empty where none was made.
        gaps: seconds that a service was away, by its name.
        keep: called with it whenever there is more of it that a run that is cut off must not lose.
    """

    migrations: list[str] = field(default_factory=list)
    backup: dict[str, object] = field(default_factory=dict)
    gaps: dict[str, float] = field(default_factory=dict)
    keep: Callable[[Prepared], None] = lambda _done: None


def ready_for(docker: Docker, report: Report, wanted: Wanted, done: Prepared) -> None:
    """Do everything of a release that leaves the old one serving.

    Args:
        docker: the new release; another one serves.
        report: where steps are told; its names are those of the steps to go through.
        wanted: what it may do.
        done: takes what it did, also where it fails.

    Raises:
        EngineError: a step failed; :func:`give_up` removes what it left.
    """
    stack = docker.stack
    with report.step("check"), ThreadPoolExecutor(1) as aside:
        # Compose reads its file for a while; where it cannot, that is told when its answer is needed.
        aside.submit(lambda: docker.configuration)
        before = preflight.check(docker, grows=wanted.commands)
        prepare.folders(stack)
        # A rollback leaves what the app stands on as it is.
        anew = made_anew(docker, before, wanted.restarts) if wanted.commands else set()
        prepare.secrets(docker, drop=False)
        nginx = next((item for item in before if item.service == EDGE and item.running), None)
        edge.stage(docker, nginx)
    with report.step("database"):
        done.gaps = _backing(docker, before, anew)
    with (
        ThreadPoolExecutor(2) as aside,
        one_off.waiting(docker) if wanted.commands else nullcontext() as apart,
        _waited_for(aside),
    ):
        # Each question is a program in the database's container; the backup needs no answer.
        asked = aside.submit(_ask_database, docker, applied=wanted.commands and bool(stack.release_commands))
        # What waits for no backup and no release command is created at once.
        created = None if wanted.commands else aside.submit(_create_web, docker)
        _until_healthy(docker, report, _Beside(aside, apart, asked, created), done)


@contextmanager
def _waited_for(threads: ThreadPoolExecutor) -> Iterator[None]:
    """Have a release that fails wait for its threads, however often it is told to end: what they make goes next."""
    try:
        yield
    except BaseException:
        with signals.deferred():
            threads.shutdown()
            raise


@dataclass
class _Beside:
    """What goes on beside a release's steps.

    Attributes:
        threads: whose end a release that fails waits for, before anything of it is removed.
        apart: where its own commands run; None where it has none to run.
        asked: the question which migrations are applied, and the passwords of database and cache.
        created: its web containers; None until they can be.
    """

    threads: ThreadPoolExecutor
    apart: Optional[one_off.Waiting]
    asked: Future[list[str]]
    created: Optional[Future[None]]


def _ask_database(docker: Docker, *, applied: bool) -> list[str]:
    """Bring passwords in line with the secrets; gives the migrations that are applied, where it is asked."""
    cache_password.ensure(docker)
    if docker.stack.database:
        database_password.ensure(docker)
    return database.migrations(docker) if applied else []


def _until_healthy(docker: Docker, report: Report, beside: _Beside, done: Prepared) -> None:
    """Bring up a release's web beside the one that serves."""
    stack, apart = docker.stack, beside.apart
    if "backup" in report.names:
        with report.step("backup"):
            hooks.demand(docker, hooks.BEFORE_BACKUP)
            done.backup = backup.create(docker, report, kind=backup.RELEASE).as_record()
            done.keep(done)
            backup_prune.prune(docker.stack, report)
    if apart:
        with report.step("migrate"):
            hooks.demand(docker, hooks.BEFORE_MIGRATE)
            if stack.workers_stop_first:
                ending.stop(docker, [item for item in docker.containers() if item.service in stack.workers])
            beside.created = beside.threads.submit(_create_web, docker)
            release_commands.run(docker, done.migrations, apart.execute, beside.asked.result())
            done.keep(done)
    with report.step("start"), ThreadPoolExecutor(1) as aside, _waited_for(aside):
        beside.asked.result()
        # Both before the switch; most of their time is Docker's.
        published = aside.submit(static_files.publish, docker, report, apart.execute) if apart else None
        if beside.created:
            beside.created.result()
        _start_web(docker)
        if published:
            published.result()
    with report.step("healthy"), ThreadPoolExecutor(1) as aside, _waited_for(aside):
        removed = aside.submit(apart.remove) if apart else None
        readiness.wait_for_web(docker, sockets(docker))
        if removed:
            removed.result()
        else:
            static_files.publish_again(docker)


def switch(docker: Docker, report: Report) -> None:
    """Lead all traffic to a release whose web is healthy, and have everything else follow.

    Args:
        docker: the release.
        report: where steps are told.

    Raises:
        EngineError: a step failed.
    """
    stack = docker.stack
    with report.step("switch"), signals.deferred():
        before = docker.containers()
        lead_to(docker, before)
    with report.step("drain"):
        left = drain(docker)
        if left:
            report.say(f"    {left} requests are still in hand; they have the container's stop_grace_period")
    # What waits for nothing more ends while the others follow: Gunicorn takes a second for that.
    with ending.leaving(docker, [item for item in docker.of(stack.web) if item.release != stack.release]) as gone:
        with report.step("workers"):
            follow(docker)
        with report.step("ready"), ThreadPoolExecutor(1) as aside:
            prepare.secrets(docker)
            wanted = current.fingerprints(docker)
            web = next(item for item in docker.of(stack.web) if item.release == stack.release)
            done_for = aside.submit(release_commands.fingerprint, docker, web, wanted[stack.web])
            readiness.wait_ready(docker, {})
            for service in stack.workers:
                readiness.wait_healthy(docker, service, {})
            release_commands.remember(docker, done_for.result())
            # What is noted is of the containers that stay.
            gone()
            _drop_sockets(docker)
            current.remember(docker, docker.containers(), wanted)


def converge(docker: Docker, report: Report) -> None:
    """Bring about that a release serves, alone and whole, whatever was begun and cut off.

    Args:
        docker: the release; its image is on this host.
        report: where steps are told.

    Raises:
        EngineError: it cannot be brought to serve.
    """
    with report.step("start"):
        misled = stand(docker)
        edge.stage(docker, next((item for item in docker.of(EDGE) if item.running), None))
        database_password.ensure(docker)
        cache_password.ensure(docker)
        _read_anew(docker, misled)
        _start_web(docker)
    with report.step("healthy"):
        readiness.wait_for_web(docker, sockets(docker))
        static_files.publish_again(docker)
    switch(docker, report)


def stand(docker: Docker) -> list[Container]:
    """Bring up what a release's web and workers stand on, and nothing else.

    Args:
        docker: the release.

    Returns:
        Those of its containers that have read another release's secrets.

    Raises:
        EngineError: a service does not start, or does not become healthy.
    """
    prepare.folders(docker.stack)
    misled = _put_back_secrets(docker)
    for service in docker.stack.backing_services:
        if not any(item.running for item in docker.of(service)):
            release.start(docker, (service,), "--no-deps")
        readiness.wait_healthy(docker, service, {})
    return misled


def give_up(docker: Docker, old: Optional[Docker]) -> None:
    """Remove what a release left that never got traffic, and give back to the one that serves what it stands on.

    Args:
        docker: the release.
        old: the one that serves; None where nothing does, or it is brought to serve next.

    Raises:
        EngineError: the old one lacks something still.
    """
    stack = docker.stack
    ending.remove(docker, [item for item in docker.of(stack.web) if item.release == stack.release], seconds=0)
    _drop_sockets(docker)
    if old is None:
        return
    misled = _put_back_secrets(old)
    there = old.containers()
    ending.remove(docker, [item for item in there if item.service not in old.stack.services])
    running = {item.service for item in there if item.running}
    if old.stack.database and old.stack.database.service in running:
        database_password.ensure(old)
    cache_password.ensure(old)
    _read_anew(old, misled)
    if not set(old.stack.workers) <= running:
        release.start(old, old.stack.workers, "--no-deps", there=there)
    # A full disk, which may be why the release is given up, holds up no recovery: the next release publishes its own.
    with suppress(EngineError):
        static_files.publish_again(old)


def _put_back_secrets(docker: Docker) -> list[Container]:
    """Put a release's secrets in their place, of which another's may have lain there.

    Gives those of its containers that were started meanwhile, as by a reboot: each has the other's secrets until it
    reads them anew. A web container then finds its own, and need not go for that.
    """
    stack = docker.stack
    under_way = pending.read(stack.root)
    serves_on = under_way and under_way.id != stack.release == releases.current(stack.root)
    misled = []
    if under_way and serves_on:
        other = stack.root / releases.FOLDER / under_way.id
        if prepare.wanted_secrets(other) != prepare.wanted_secrets(stack.bundle):
            begun, ours = pending.begun(stack.root), ("", stack.release)
            apps = [item for item in docker.containers() if item.service in stack.app_services and item.release in ours]
            misled = [item for item in apps if item.running and item.started >= begun]
    prepare.secrets(docker, into=current.mounted_by(docker, stack.app_services) if misled else ())
    return misled


def _read_anew(docker: Docker, misled: Sequence[Container]) -> None:
    """Have containers read their secrets: web without a gap, the others by a restart."""
    stack = docker.stack
    for item in misled:
        if item.service == stack.web:
            # One that ends just then reads them when it starts again.
            docker.hang_up(item)
    others = sorted({item.service for item in misled} - {stack.web})
    if others:
        docker.compose("restart", *others, code="restart", remedy=stack.make("logs"), ending=misled)


def lead_to(docker: Docker, before: Sequence[Container]) -> None:
    """Have nginx ask a release's web: the switch itself.

    Args:
        docker: the release, whose set of nginx's files was staged.
        before: all containers that there are.
    """
    stack = docker.stack
    if not any(item.service == EDGE and item.running for item in before):
        # It was taken down: it begins with all in its place.
        edge.link(stack)
        edge.lead_to(stack)
        release.start(docker, (EDGE,), "--no-deps")
    if not edge.is_current(stack):
        edge.activate(docker, before)
    edge.lead_to(stack)
    releases.switch(stack.root, stack.release)


def drain(docker: Docker) -> int:
    """Wait until the old release's web has answered what it had in hand.

    Args:
        docker: the release that serves now.

    Returns:
        How many requests it still had after the new release's drain_timeout_seconds.
    """
    stack = docker.stack
    old = [item for item in docker.of(stack.web) if item.release != stack.release]
    end = time.monotonic() + (stack.edge.drain_timeout_seconds if stack.edge else 0)
    while True:
        left = edge.in_hand(old)
        if not left or time.monotonic() > end:
            return left
        time.sleep(edge.POLL_SECONDS)


def follow(docker: Docker) -> None:
    """Replace the app's other processes by the release's own, and remove those that it has no more.

    Each old one gets its stop_grace_period to finish the job in hand, and its successor starts after it: no job is run
    twice.
    """
    stack = docker.stack
    ending.remove(docker, [item for item in docker.containers() if item.service not in stack.services])
    there = docker.containers()
    release.remake(docker, there, stack.workers, current.with_other_secrets(docker, there))
    release.start(docker, stack.workers, "--no-deps", there=there)


def sockets(docker: Docker) -> list[Path]:
    """Where the web containers of a release are reached, as nginx reaches them (nginx/conf.d/default.conf.j2)."""
    stack = docker.stack
    replicas = stack.edge.replicas if stack.edge else 0
    return [prepare.socket_folder(stack) / f"{number}.sock" for number in range(1, replicas + 1)]


def _start_web(docker: Docker) -> None:
    """Start as many web containers of a release as are lacking, and leave all others alone."""
    stack = docker.stack
    _create_web(docker)
    release.start_created(docker, [item for item in docker.of(stack.web) if item.release == stack.release])


def _create_web(docker: Docker) -> None:
    """Create as many web containers of a release as are lacking; Compose would take longer to start them too."""
    stack = docker.stack
    there = docker.of(stack.web)
    ended = [item for item in there if item.release == stack.release and not (item.running or item.created)]
    ending.remove(docker, ended, seconds=0)
    kept = [item for item in there if item not in ended]
    lacking = len(sockets(docker)) - sum(item.release == stack.release for item in kept)
    if lacking > 0:
        scale = f"{stack.web}={len(kept) + lacking}"
        release.start(docker, (stack.web,), "--no-deps", "--no-recreate", "--no-start", "--scale", scale)


def restarts(docker: Docker, before: Sequence[Container]) -> set[str]:
    """Name the services that a release makes anew although that leaves a gap, for want of another way.

    Args:
        docker: the release.
        before: all containers that there are.

    Raises:
        EngineError: Compose cannot tell.
    """
    stack = docker.stack
    services = (*stack.backing_services, EDGE)
    told = docker.compose(
        *("--dry-run", "up", "--detach", "--no-deps", "--no-build", "--pull", "never", *services),
        code="compose_file",
        remedy=stack.make("render"),
    )
    # Compose's own word for what it would do; the last part of a container's name is its number.
    named = re.findall(r"Container (\S+)\s+Recreate\b", told.out + told.err)
    anew = {name for name in services if any(re.fullmatch(rf"(.*-)?{re.escape(name)}-\d+", one) for one in named)}
    return anew | (current.with_other_secrets(docker, before, stack.bundle / "secrets") & set(services))


def made_anew(docker: Docker, before: Sequence[Container], allowed: frozenset[str]) -> set[str]:
    """Name the services that a release makes anew although that leaves a gap.

    Args:
        docker: the release.
        before: all containers that there are.
        allowed: services that may be; ``all`` stands for each.

    Raises:
        EngineError: somebody must allow it first.
    """
    stack, anew = docker.stack, restarts(docker, before)
    refused = sorted(anew - allowed)
    if refused and "all" not in allowed:
        names = ",".join(sorted(anew))
        raise EngineError(
            "restart_needed",
            f"This release changes {' and '.join(refused)}, and cannot be brought up without stopping "
            f"{'it' if len(refused) == 1 else 'them'} for some seconds. Nothing was changed.",
            stack.make("deploy", f"ALLOW_RESTART={names}") + "    (at an hour when a gap does no harm)",
        )
    return anew


def _backing(docker: Docker, before: Sequence[Container], anew: set[str]) -> dict[str, float]:
    """Bring up what the app needs; gives the seconds that each service made anew was away."""
    stack = docker.stack
    gaps = {}
    there = {item.service for item in before if item.running}
    for service in (*stack.backing_services, EDGE):
        lacking = service not in there and service != EDGE
        if service in anew or lacking:
            begun = time.monotonic()
            if service == EDGE:
                # It comes back on the set that serves: the switch is still to come.
                release.start(docker, (service,), "--no-deps", "--force-recreate", there=before)
            else:
                force = ["--force-recreate"] if service in anew else []
                release.start(docker, (service,), "--no-deps", *force, there=before)
            readiness.wait_healthy(docker, service, {})
            if service in anew:
                gaps[service] = round(time.monotonic() - begun, 1)
        elif service != EDGE:
            readiness.wait_healthy(docker, service, {item.id: item.restarts for item in before})
    return gaps


def _drop_sockets(docker: Docker) -> None:
    """Remove the socket folders of releases that have no web any more."""
    used = {item.release for item in docker.of(docker.stack.web)}
    # Where no nginx stands before web there is no such folder, and nothing in it.
    for folder in (docker.stack.root / prepare.SOCKETS).glob("*"):
        if folder.is_dir() and not folder.is_symlink() and folder.name not in used:
            shutil.rmtree(folder)
