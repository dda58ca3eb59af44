"""The databases of a restore: the one in use, the new one that takes its place, and those that were kept before it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Optional

from kit_engine import command
from kit_engine.docker import Container, Docker
from kit_engine.stack import Database

# What provides the collation is told from PostgreSQL 15 on, and its locale by another name from 17 on.
_CREATE = """
SELECT format('CREATE DATABASE "%(new)s" TEMPLATE template0 ENCODING %%L LC_COLLATE %%L LC_CTYPE %%L',
              pg_encoding_to_char(encoding), datcollate, datctype)
    || CASE told->>'datlocprovider'
       WHEN 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %%L', coalesce(told->>'datlocale', told->>'daticulocale'))
       WHEN 'b' THEN format(' LOCALE_PROVIDER builtin BUILTIN_LOCALE %%L', told->>'datlocale')
       ELSE '' END
FROM pg_database, to_jsonb(pg_database) told
WHERE datname IN ('%(name)s', 'template0') ORDER BY datname = 'template0' LIMIT 1
"""


def size(docker: Docker, server: Container, wanted: Database) -> Optional[int]:
    """Tell how many bytes the database in use takes on the server's disk; None where there is none of that name.

    It need not let anybody in: whoever wants one back may have lost it, or find it damaged.

    Args:
        docker: the stack's containers.
        server: of the database.
        wanted: the database; its name holds no quote (database_name).

    Raises:
        EngineError: the server does not answer.
    """
    query = f"SELECT pg_database_size(datname) FROM pg_database WHERE datname = '{wanted.name}'"  # noqa: S608 - see above
    return next((int(one) for one in _rows(docker, server, wanted, query)), None)


def names(docker: Docker, server: Container, wanted: Database) -> set[str]:
    """Give the names of all databases of a server; raises as :func:`size`."""
    return set(_rows(docker, server, wanted, "SELECT datname FROM pg_database"))


def create(docker: Docker, server: Container, wanted: Database, new: str) -> None:
    """Make an empty database of the encoding and collation of the one in use: the server's own may be others.

    Args:
        docker: the stack's containers.
        server: of the database.
        wanted: the database; where it is not there, the server's own are taken.
        new: name of the one that is made.

    Raises:
        EngineError: it cannot be made.
    """
    statement = _rows(docker, server, wanted, _CREATE % {"new": new, "name": wanted.name})
    _sql(docker, server, wanted, " ".join(statement))


def drop(docker: Docker, server: Container, wanted: Database, name: str) -> None:
    """Remove a database, where it is there; raises as :func:`create`."""
    _sql(docker, server, wanted, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def drop_unfinished(docker: Docker, server: Container, wanted: Database) -> None:
    """Remove what a restore that was killed had loaded, which nothing ever served; raises as :func:`create`."""
    for name in _named(docker, server, wanted, "new"):
        drop(docker, server, wanted, name)


def kept(docker: Docker, server: Container, wanted: Database) -> dict[str, int]:
    """Give the databases that restores have replaced, and the bytes of each; raises as :func:`create`."""
    listed = ", ".join(f"'{name}'" for name in _named(docker, server, wanted, "before"))
    sizes = f"SELECT datname || '|' || pg_database_size(datname) FROM pg_database WHERE datname IN ({listed})"  # noqa: S608 - names of ours
    told = (line.rpartition("|") for line in (_rows(docker, server, wanted, sizes) if listed else []))
    return {name: int(taken) for name, _, taken in sorted(told)}


def swap(docker: Docker, server: Container, wanted: Database, new: str, kept_as: str) -> None:
    """Give the new one the name, and the one that has it another: both renames at once, or none.

    Args:
        docker: the stack's containers.
        server: of the database.
        wanted: the database.
        new: name of the new one.
        kept_as: name that the one in use gets.

    Raises:
        EngineError: it failed; both bear the names that they had.
    """
    # No quote is in it (database_name).
    sessions = f"datname IN ('{wanted.name}', '{new}') AND backend_type = 'client backend'"
    # Autovacuum is the administrator's, whom not every user may disturb; a rename ends it by itself.
    gone = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {sessions}"  # noqa: S608 - see above
    renames = f'ALTER DATABASE "{wanted.name}" RENAME TO "{kept_as}"; ALTER DATABASE "{new}" RENAME TO "{wanted.name}"'
    _sql(docker, server, wanted, gone, f"BEGIN; {renames}; COMMIT")


def _named(docker: Docker, server: Container, wanted: Database, kind: str) -> list[str]:
    """Those that a restore has named so, and nobody else's whose name is like them."""
    ours = re.compile(f"{re.escape(wanted.name)}_{kind}_[0-9]{{8}}_[0-9]{{6}}")
    return sorted(name for name in names(docker, server, wanted) if ours.fullmatch(name))


def _rows(docker: Docker, server: Container, wanted: Database, query: str) -> list[str]:
    words = [*_psql(server, wanted, query), "--tuples-only", "--no-align"]
    return command.demand(words, code="database", remedy=wanted.look(docker.stack)).out.splitlines()


def _sql(docker: Docker, server: Container, wanted: Database, *statements: str) -> None:
    command.demand(
        _psql(server, wanted, *statements),
        code="database",
        remedy=wanted.look(docker.stack),
        limit=docker.stack.limits.command_timeout_seconds,
    )


def _psql(server: Container, wanted: Database, *statements: str) -> Sequence[str]:
    words = ["docker", "exec", server.id, "psql", "--no-psqlrc", "--no-password", "--quiet", "--set=ON_ERROR_STOP=1"]
    return [*words, f"--username={wanted.user}", "--dbname=postgres", *(f"--command={one}" for one in statements)]
