"""Containers of a minute: a PostgreSQL that a backup is restored into, and what reads the media volume.

Each carries a label, by which the next run removes what one that was killed has left.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kit_engine import command
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.stack import Database

LABEL = "kit.throw_away"
# A restore works in one process and the server's; more would be taken from visitors. PostgreSQL's own needs for one
# session stay far below the memory, the rest is cache.
MEMORY, CPUS, PIDS = "1g", "1", "200"
START_SECONDS, LOOK_SECONDS = 120.0, 0.2
# A place that no image declares as a volume: the container's own goes with it.
_DATA = "/var/lib/kit-restore-test"
# What a server that is thrown away need not do.
_CARELESS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "wal_level=minimal", "max_wal_senders=0",
             "autovacuum=off", "max_parallel_maintenance_workers=0")  # fmt: skip
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID")


def words(docker: Docker, purpose: str, capabilities: Sequence[str]) -> list[str]:
    """Give what begins ``docker run`` for such a container: no network, limits, no log, no way to become more.

    Args:
        docker: the stack's containers.
        purpose: in a word; part of its name.
        capabilities: those that it keeps.
    """
    return [
        *("docker", "run", "--name", name_of(docker, purpose), "--label", f"{LABEL}={docker.stack.project}"),
        *("--pull", "never", "--network", "none", "--memory", MEMORY, "--cpus", CPUS, "--pids-limit", PIDS),
        *("--security-opt", "no-new-privileges", "--cap-drop", "ALL"),
        *(word for one in capabilities for word in ("--cap-add", one)),
    ]


def name_of(docker: Docker, purpose: str) -> str:
    """Name the container of this run."""
    return f"{docker.stack.project}-{purpose}-{os.getpid()}"


def remove_left(docker: Docker) -> None:
    """Remove those of earlier runs, and their volumes; the caller holds the host's lock, so nobody uses them."""
    label = f"label={LABEL}={docker.stack.project}"
    found = command.run(["docker", "ps", "--all", "--quiet", "--filter", label]).out.split()
    if found:
        command.run(["docker", "rm", "--force", "--volumes", *found])


@contextmanager
def server_like(docker: Docker, server: Container, wanted: Database) -> Iterator[str]:
    """Run an empty PostgreSQL of the same image, with the same database and owner, until the block is left.

    Args:
        docker: the stack's containers.
        server: whose image.
        wanted: the database.

    Returns:
        Name of its container.

    Raises:
        EngineError: it does not start.
    """
    remove_left(docker)
    name = name_of(docker, "restore-test")
    run = [
        *words(docker, "restore-test", _CAPABILITIES),
        *("--detach", "--restart", "no", "--volume", _DATA, "--env", f"PGDATA={_DATA}/data"),
        *("--env", f"POSTGRES_USER={wanted.user}", "--env", f"POSTGRES_DB={wanted.name}"),
        # Nobody but we can reach it.
        *("--env", "POSTGRES_PASSWORD=unused", server.image, "postgres"),
        *(word for one in _CARELESS for word in ("-c", one)),
    ]
    try:
        command.demand(run, code="backup", remedy="docker info    (does the engine have room and memory?)")
        _wait(docker, name, wanted)
        yield name
    finally:
        command.run(["docker", "rm", "--force", "--volumes", name])


def _wait(docker: Docker, name: str, wanted: Database) -> None:
    """Over TCP: while the image prepares the database, the server listens on its socket alone."""
    end = time.monotonic() + START_SECONDS
    ask = ["docker", "exec", name, "pg_isready", "--quiet", "--host=127.0.0.1"]
    while command.run([*ask, f"--username={wanted.user}", f"--dbname={wanted.name}"]).code:
        state = command.run(["docker", "inspect", "--format", "{{.State.Running}}", name]).out.strip()
        if state != "true" or time.monotonic() > end:
            said = command.run(["docker", "logs", "--tail", "30", name])
            raise EngineError(
                "backup",
                f"The PostgreSQL that the backup was to be restored into did not start:\n"
                f"{command.tail(said.out + said.err)}\nNothing was changed.",
                docker.stack.make("backup") + "    (tries again)",
            )
        time.sleep(LOOK_SECONDS)
