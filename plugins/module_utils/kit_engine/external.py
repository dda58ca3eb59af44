"""A client for a PostgreSQL that somebody else runs: a container that reaches it by the way that the app does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from kit_engine import client, command, database_name, database_password
from kit_engine.docker import Container, Docker, image_id
from kit_engine.errors import EngineError
from kit_engine.stack import EXTERNAL_SECRETS, Database, External

# What psql ends with where it has no session.
_NO_SESSION = 2


@contextmanager
def reached(docker: Docker, wanted: Database, *, lacking: bool = False) -> Iterator[Container]:
    """Give what runs PostgreSQL's client programs for a database, until the block is left.

    Args:
        docker: the stack's containers; while the block lasts, they have one for the external database's service.
        wanted: the database.
        lacking: whether the server may lack just that.

    Returns:
        The stack's own server, or for an external database a client of its major version.

    Raises:
        EngineError: the stack's own does not run; the external one cannot be reached, refuses the login, or is of
            another major version than the client. What fails in the block is told with the server's silence, where
            it has become silent.
    """
    if not isinstance(wanted, External) or wanted.service in docker.lent:
        yield docker.running(wanted.service)
        return
    if not image_id(wanted.image):
        raise EngineError(
            "image",
            f"Image {wanted.image}, whose pg_dump backs the external database up, is not on this host. Nothing was "
            "changed.",
            docker.stack.make("deploy") + "    (brings it along)",
        )
    with client.opened(docker, "client", _way(docker, wanted)) as made:
        _demand_same_major(docker, wanted, made, lacking=lacking)
        docker.lent[wanted.service] = made
        try:
            yield made
        except EngineError as error:
            _demand_answering(docker, made, wanted, error, lacking=lacking)
            raise
        finally:
            docker.lent.pop(wanted.service, None)


def way(docker: Docker, server: Container, wanted: Database) -> client.Way:
    """Give the way by which a client of its own comes to a database.

    Args:
        docker: the stack's containers.
        server: what :func:`reached` gave.
        wanted: the database.

    Raises:
        EngineError: the external database's password is not here.
    """
    if isinstance(wanted, External):
        return _way(docker, wanted)
    secret = docker.stack.root / database_password.FILE
    # Where it is no file, the server's own loopback may ask for none.
    password = secret.read_text(encoding="utf-8").rstrip("\n") if secret.is_file() else ""
    return client.beside(server.id, server.image, wanted.user, password)


def demand_restorable(docker: Docker, server: Container, wanted: Database) -> None:
    """Refuse to restore where the user could not put another database into the place of the one in use.

    Args:
        docker: the stack's containers.
        server: what :func:`reached` gave.
        wanted: the database; what the stack runs itself lets its user do all.

    Raises:
        EngineError: it may not; the message says what an administrator has to grant. Or no database of that name can be
            replaced.
    """
    wrong = database_name.problem(wanted.name)
    if wrong:
        raise EngineError(
            "backup",
            f"Nothing can be restored into database {wanted.name!r}: {wrong}. Nothing was changed.",
            "bring its tables into a database of another name (pg_dump, pg_restore), write that into "
            f"release_bundle_database_name in inventories/{docker.stack.env}, then: {docker.stack.make('deploy')}",
        )
    if not isinstance(wanted, External):
        return
    quoted = wanted.name.replace("'", "''")
    question = (
        "SELECT rolsuper OR rolcreatedb, rolsuper OR datdba IS NULL OR pg_has_role(current_user, datdba, 'USAGE') "  # noqa: S608 - quoted
        f"FROM pg_roles LEFT JOIN pg_database ON datname = '{quoted}' WHERE rolname = current_user"
    )
    done = _ask(docker, server, wanted, "postgres", question)
    role, name = wanted.user.replace('"', '""'), wanted.name
    said = ""
    if done.code:
        said = f"\n{command.tail(done.err)}\n"
        lacking, grant = "cannot use database postgres there", f'GRANT CONNECT ON DATABASE postgres TO "{role}"'
    else:
        makes, renames = (*done.out.strip().split("|"), "", "")[:2]
        if (makes, renames) == ("t", "t"):
            return
        if makes != "t":
            lacking, grant = "lacks CREATEDB", f'ALTER ROLE "{role}" CREATEDB'
        else:
            lacking, grant = f"does not own {name}", f'ALTER DATABASE "{name}" OWNER TO "{role}"'
    raise EngineError(
        "backup",
        f"Nothing can be restored into {wanted.place}: a backup goes into a new database, which then takes the name "
        f"{name}, and user {wanted.user} {lacking}.{said or ' '}Nothing was changed.",
        f"have an administrator of {wanted.place} say: {grant};    then repeat the command",
    )


def _way(docker: Docker, wanted: External) -> client.Way:
    secrets = _secrets(docker)
    service = {
        "host": wanted.host, "port": wanted.port, "user": wanted.user, "dbname": wanted.name,
        "sslmode": wanted.sslmode,
    }  # fmt: skip
    authorities = str(secrets.get("root_certificate") or "")
    return client.Way(wanted.image, _network(docker), service, str(secrets["password"]), authorities)


def _network(docker: Docker) -> str:
    """The network by which the app's containers reach what is outside of the stack."""
    config = docker.configuration
    known: dict[str, Any] = config.get("networks") or {}
    mine = [known[name] for name in config["services"][docker.stack.web].get("networks") or () if name in known]
    outer = [one for one in mine if not one.get("internal")] or mine
    return str(outer[0]["name"]) if outer else f"{docker.stack.project}_default"


def _secrets(docker: Docker) -> dict[str, Any]:
    path = docker.stack.bundle / "secrets" / EXTERNAL_SECRETS
    told: Any = None
    with suppress(OSError, ValueError):
        told = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(told, dict) or not told.get("password"):
        problem = f"{path} has no password of the external database."
        raise EngineError("database", problem, docker.stack.make("deploy") + "    (writes it)")
    return told


def _demand_same_major(docker: Docker, wanted: External, made: Container, *, lacking: bool) -> None:
    """An older client refuses a newer server, and what a newer one dumps may not load into an older server."""
    done = _ask(docker, made, wanted, wanted.name, "SHOW server_version")
    if done.code and lacking:
        # Where that is not there either, nothing can be restored, and is told so (demand_restorable).
        done = _ask(docker, made, wanted, "postgres", "SHOW server_version")
    if done.code:
        raise EngineError(
            "database",
            f"{wanted.place} does not let user {wanted.user} into database {wanted.name}:\n"
            f"{command.tail(done.err)}\nNothing was changed.",
            f"compare release_bundle_database_* and the password in the vault of {docker.stack.env} with the server's",
        )
    server = done.out.strip()
    brought = docker.execute(made, ["pg_dump", "--version"], limit=command.QUICK_SECONDS).out
    found = re.search(r"(\d+)[.\w]*", brought.replace("(PostgreSQL)", ""))
    major = server.partition(".")[0].partition(" ")[0]
    if found is None or found[1] != major:
        raise EngineError(
            "database_major",
            f"{wanted.place} is PostgreSQL {server}, and the pg_dump of {wanted.image} is "
            f"{found[0] if found else 'not known'}: what one major version dumps, another may not dump or load. "
            "Nothing was changed.",
            f"name an image of PostgreSQL {major} (base_images_tags in inventories/{docker.stack.env})",
        )


def _demand_answering(docker: Docker, made: Container, wanted: External, error: EngineError, *, lacking: bool) -> None:
    """Say of what failed that the server has become silent: a program that waited for it could only be stopped."""
    try:
        # A server that lacks the one may let nobody but its administrator into the other.
        asked = [_ask(docker, made, wanted, name, "SELECT 1") for name in (wanted.name, *(["postgres"] * lacking))]
        if any(done.code != _NO_SESSION for done in asked):
            return
        said = command.tail(asked[0].err)
    except EngineError as late:
        said = late.problem
    raise EngineError(
        error.code,
        f"{error.problem}\n{wanted.place} gives user {wanted.user} no session of database {wanted.name} any more:\n"
        f"{said}",
        f"see that {wanted.host} and the way there work, then repeat the command",
    ) from error


def _ask(docker: Docker, server: Container, wanted: External, name: str, question: str) -> command.Done:
    words = ["psql", "--no-psqlrc", "--no-password", "--tuples-only", "--no-align", f"--username={wanted.user}"]
    words += [f"--dbname={name}", f"--command={question}"]
    return docker.execute(server, words, limit=client.CONNECT_SECONDS + command.QUICK_SECONDS)
