"""Containers of a minute: a PostgreSQL that a backup is restored into, and what reads or writes the
media volume from inside.

Each carries a label, by which the next run removes what one that was killed has left. A deploy's session starts the
server that its backup will need while the image is still being made (:func:`begin_ahead`).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Optional

from kit_engine import command, docker_socket, jobs, signals
from kit_engine.docker import Container, Docker, labelled
from kit_engine.errors import EngineError
from kit_engine.stack import Database

LABEL = "kit.throw_away"
# On a server that was started ahead: what it was started as.
KIND = "kit.throw_away_kind"
# PostgreSQL's own needs for a session stay below 100 MiB (maintenance_work_mem), the rest of the memory is cache.
MEMORY, PIDS = "1g", "200"
# Of a processor that others want as well: theirs are 1024 each.
SHARES = "64"
START_SECONDS = 120.0
# A database up to this size is restored into memory, which it cannot outgrow: the catalogs of an empty one take 25 MiB,
# its log 64.
SMALL_BYTES = 64 * 2**20
# A place that no image declares as a volume: the container's own goes with it.
_DATA = "/var/lib/kit-restore-test"
_IN_MEMORY = ("--tmpfs", f"{_DATA}:size=384m")
# Where nobody but we can reach it; some builds look for the socket elsewhere.
_SOCKETS = "/tmp"  # noqa: S108 - inside the container
# What a server that is thrown away need not do.
_CARELESS = (
    *("fsync=off", "synchronous_commit=off", "full_page_writes=off", "wal_level=minimal", "max_wal_senders=0"),
    *("max_wal_size=64MB", "autovacuum=off", "max_parallel_maintenance_workers=0"),
    # Its network is none; who shares that loads by it (parallel.py).
    *("listen_addresses=127.0.0.1", f"unix_socket_directories={_SOCKETS}"),
)
# The image's entry point would start the server twice, the first time to set a password that nobody needs.
_START = """
set -e
as='setpriv --reuid postgres --regid postgres --clear-groups'
for one in gosu su-exec; do if command -v $one >/dev/null; then as="$one postgres"; fi; done
mkdir -p "$PGDATA"
chown postgres "$PGDATA"
$as initdb --no-sync --auth=trust --wal-segsize=1 --username="$1" >/dev/null
shift
exec $as postgres "$@"
"""
_UNTIL_READY = "until pg_isready --quiet; do sleep 0.05; done"
_CAPABILITIES = ("CHOWN", "SETGID", "SETUID")


class Server:
    """An empty PostgreSQL that is started while others work.

    Attributes:
        name: of its container.
        user: who may do all.
        database: the one in it.
        image: that it runs.
        jobs: by how many processes it is loaded.

    Args:
        docker: the stack's containers.
        user: who shall.
        starting: the client that starts it; None for one that was started ahead.
        image: id of the image.
        count: by how many processes it shall be loaded.
    """

    def __init__(
        self, docker: Docker, user: str, starting: Optional[subprocess.Popen[bytes]], image: str, count: int
    ) -> None:
        self.docker, self.user, self._starting, self.image, self.jobs = docker, user, starting, image, count
        self.name, self.database = name_of(docker, "restore-test"), "postgres"

    def demand_ready(self) -> None:
        """Wait until it answers.

        Raises:
            EngineError: it does not start.
        """
        if self._starting:
            try:
                said = self._starting.communicate(timeout=START_SECONDS)[1].decode("utf-8", "replace")
            except subprocess.TimeoutExpired:
                raise self._not_started(f"docker run was given {START_SECONDS:.0f} s") from None
            if self._starting.returncode:
                raise self._not_started(said)
        if command.run(["docker", "exec", self.name, "sh", "-c", _UNTIL_READY], limit=START_SECONDS).code:
            logs = command.run(["docker", "logs", "--tail", "30", self.name])
            raise self._not_started(logs.out + logs.err)

    def remove(self) -> None:
        """Remove it with its data."""
        if self._starting and self._starting.poll() is None:
            # Before its end, there may be nothing to remove yet.
            with suppress(subprocess.TimeoutExpired):
                self._starting.communicate(timeout=START_SECONDS)
            self._starting.kill()
        command.run(["docker", "rm", "--force", "--volumes", self.name])

    def _not_started(self, said: str) -> EngineError:
        return EngineError(
            "backup",
            f"The PostgreSQL that the backup was to be restored into did not start:\n{command.tail(said)}\n"
            "Nothing was changed.",
            self.docker.stack.make("backup") + "    (tries again)",
        )


def words(docker: Docker, name: str, capabilities: Sequence[str], network: str = "none", cpus: int = 1) -> list[str]:
    """Give what begins ``docker run`` for such a container: limits, no log, no way to become more.

    Args:
        docker: the stack's containers.
        name: that it gets.
        capabilities: those that it keeps.
        network: that it is in.
        cpus: processors that it may use; what is more than the work needs would be taken from visitors.
    """
    return [
        *("docker", "run", "--name", name, "--label", f"{LABEL}={docker.stack.project}"),
        *("--pull", "never", "--network", network, "--memory", MEMORY, "--cpus", str(cpus), "--pids-limit", PIDS),
        *("--cpu-shares", SHARES),
        *("--security-opt", "no-new-privileges", "--cap-drop", "ALL"),
        *(word for one in capabilities for word in ("--cap-add", one)),
    ]


def name_of(docker: Docker, purpose: str) -> str:
    """Name the container of this run that has a purpose, which is told in a word."""
    return f"{docker.stack.project}-{purpose}-{os.getpid()}"


def remove_left(docker: Docker) -> None:
    """Remove those of earlier runs, and their volumes; the caller holds the host's lock, so nobody uses them.

    What was started ahead stays: nothing has been restored into it.
    """
    kept = {one.id for one in docker.lent.values()} | {_found_ahead(docker.stack.project).get("Id")}
    found = set(labelled(f"{LABEL}={docker.stack.project}")) - kept
    if found:
        command.run(["docker", "rm", "--force", "--volumes", *found])


def begin_ahead(docker: Docker, server: Container, wanted: Database) -> None:
    """Start the server that the next backup of a small database is restored into.

    Args:
        docker: the stack's containers.
        server: of the database.
        wanted: the database.
    """
    user, name = _user(wanted), _ahead(docker.stack.project)
    # Whoever takes or removes it asks by the socket.
    if docker_socket.there(f"/containers/{name}/json") is None:
        return
    remove_ahead(docker.stack.project)
    kind = ("--label", f"{KIND}={_kind(server, user)}")
    # A client that is ended may leave a container that comes later.
    with signals.deferred():
        command.run(_start(docker, name, server, user, _IN_MEMORY, kind), limit=START_SECONDS)


def remove_ahead(project: str) -> None:
    """Remove a server that was started ahead and that no backup came for.

    Args:
        project: Compose's name of the stack.
    """
    if _found_ahead(project):
        command.run(["docker", "rm", "--force", "--volumes", _ahead(project)])


@contextmanager
def server_like(docker: Docker, server: Container, wanted: Database, size: int, count: int = 1) -> Iterator[Server]:
    """Run an empty PostgreSQL of the same image, with the same owner, until the block is left.

    Args:
        docker: the stack's containers.
        server: whose image.
        wanted: the database.
        size: bytes of the database; a small one has its data in memory.
        count: by how many processes it will be loaded; it may use as many processors, where there are so many.

    Returns:
        The server, which may still be starting.
    """
    user = _user(wanted)
    with ExitStack() as left:
        starting = None
        if size > SMALL_BYTES or not _taken(docker, server, user):
            place = _IN_MEMORY if size <= SMALL_BYTES else ("--volume", _DATA)
            name = name_of(docker, "restore-test")
            cpus = min(count, jobs.engine_cpus()) if count > 1 else 1
            starting = left.enter_context(command.begin(_start(docker, name, server, user, place, cpus=cpus)))
        made = Server(docker, user, starting, server.image, count)
        try:
            yield made
        finally:
            made.remove()


def _ahead(project: str) -> str:
    return f"{project}-restore-test-ahead"


def _found_ahead(project: str) -> dict[str, Any]:
    """What Docker says of a server that was started ahead; empty where there is none."""
    return docker_socket.get(f"/containers/{_ahead(project)}/json") or {}


def _taken(docker: Docker, server: Container, user: str) -> bool:
    """Take the server that was started ahead, where it is one like this; under its new name, no other run does."""
    project = docker.stack.project
    found = _found_ahead(project)
    if found and found["State"]["Running"] and found["Config"]["Labels"].get(KIND) == _kind(server, user):
        return command.run(["docker", "rename", _ahead(project), name_of(docker, "restore-test")]).code == 0
    remove_ahead(project)
    return False


def _kind(server: Container, user: str) -> str:
    return f"{server.image} {user}"


def _user(wanted: Database) -> str:
    """Whom the server has: the user of a foreign one is no superuser there, as the backup's roles say, and stays so."""
    return wanted.user if wanted.volume else "kit_restore_test"


def _start(
    docker: Docker, name: str, server: Container, user: str, place: Sequence[str], further: Sequence[str] = (), *,
    cpus: int = 1,
) -> list[str]:  # fmt: skip
    """The words that start an empty PostgreSQL of the image of another."""
    return [
        *words(docker, name, _CAPABILITIES, cpus=cpus), *further, "--detach", "--restart", "no", *place,
        *("--user", "0:0"),
        *("--env", f"PGDATA={_DATA}/data", "--env", f"PGHOST={_SOCKETS}", "--entrypoint", "sh", server.image),
        *("-c", _START, "sh", user, *(word for one in _CARELESS for word in ("-c", one))),
    ]  # fmt: skip
