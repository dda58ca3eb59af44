"""What the engine asks the stack's own PostgreSQL and its volume."""

from __future__ import annotations

import re
from typing import Optional

from kit_engine import command
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.stack import Database

# PostgreSQL's code for a table that does not exist: nothing was ever migrated.
UNDEFINED_TABLE = "42P01"
SIZE = "pg_database_size(current_database())"
MIGRATIONS = "SELECT app || '.' || name FROM django_migrations ORDER BY id"


def migrations(docker: Docker) -> list[str]:
    """List the migrations that the database has, in the order they were applied.

    Args:
        docker: the stack's containers; its database runs.

    Returns:
        Such as ``auth.0001_initial``; nothing for an external database, which the engine does not ask.

    Raises:
        EngineError: the database refuses the question.
    """
    return _query(docker, MIGRATIONS)


def identity(docker: Docker) -> str:
    """Give the number that PostgreSQL drew when its data folder was made; empty for an external database.

    Args:
        docker: the stack's containers; its database runs.

    Raises:
        EngineError: the database refuses the question.
    """
    return "".join(_query(docker, "SELECT system_identifier FROM pg_control_system()"))


def server_version(docker: Docker) -> str:
    """Tell the server's version, such as ``16.10``, even where it lacks the database; raises as :func:`migrations`."""
    return " ".join(_query(docker, "SHOW server_version", "postgres"))


def _query(docker: Docker, statement: str, name: str = "") -> list[str]:
    database = docker.stack.backed_up
    # An external one is asked while there is a client for it.
    if database is None or (docker.stack.database is None and database.service not in docker.lent):
        return []
    done = docker.execute(
        docker.running(database.service),
        [
            *("psql", "--no-psqlrc", "--no-password", "--tuples-only", "--no-align", "--set=VERBOSITY=sqlstate"),
            f"--username={database.user}",
            f"--dbname={name or database.name}",
            f"--command={statement}",
        ],
        limit=command.QUICK_SECONDS,
    )
    if done.code and UNDEFINED_TABLE in done.err:
        return []
    if done.code:
        raise unanswered(docker, database, done.err)
    return done.out.split()


def unanswered(docker: Docker, database: Database, said: str) -> EngineError:
    """Say that the database refuses its own user, or that it is gone."""
    gone = f'database "{database.name}" does not exist' in said
    return EngineError(
        "database",
        f"Database {database.name} ({database.place}) does not answer user {database.user}:\n{command.tail(said)}",
        docker.stack.make("restore") + "    (brings one back that was dropped)"
        if gone
        else database.look(docker.stack),
    )


def majors(docker: Docker, database: Database) -> Optional[tuple[int, int]]:
    """Read the major versions of PostgreSQL that wrote the database's volume, and that its image brings.

    Args:
        docker: the stack's containers.
        database: whose volume and image.

    Returns:
        Such as (15, 16); None if the volume does not exist or is empty.

    Raises:
        EngineError: the volume cannot be read.
    """
    if not docker.has_volume(database.volume):
        return None
    # Up to 17 the file lies at the volume's top, from 18 on in <major>/docker.
    script = (
        "postgres --version; "
        "for f in /volume/PG_VERSION /volume/*/docker/PG_VERSION; do [ -f $f ] && echo volume $(cat $f); done; true"
    )
    done = command.demand(
        [
            *("docker", "run", "--rm", "--pull", "never", "--network", "none", "--user", "0:0"),
            *("--volume", f"{database.volume}:/volume:ro", "--entrypoint", "sh", database.image, "-c", script),
        ],
        code="image",
        remedy=docker.stack.make("deploy") + "    (brings the images along)",
    )
    image = re.search(r"\(PostgreSQL\) (\d+)", done.out)
    volume = [int(found) for found in re.findall(r"^volume (\d+)", done.out, re.MULTILINE)]
    return (max(volume), int(image[1])) if volume and image else None
