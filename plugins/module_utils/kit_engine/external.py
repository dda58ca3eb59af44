"""A client for a PostgreSQL that somebody else runs: a container that reaches it by the way that the app does.

It holds what it needs to log in, in its own memory, and ends when we do: whatever runs inside it reads the service
and the password from there, and no command line and no `docker inspect` has them.
"""

from __future__ import annotations

import json
import re
import shlex
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from kit_engine import command, streams, throw_away
from kit_engine.docker import Container, Docker, container_of, image_id
from kit_engine.errors import EngineError
from kit_engine.stack import EXTERNAL_SECRETS, Database, External

# A server that is there answers at once; one behind a firewall that drops packets never does.
CONNECT_SECONDS = 10
# And a connection that fell silent would be waited for until two hours have passed. One that is idle, as that which
# holds the snapshot of a long dump, is dropped by many a firewall after some minutes.
IDLE_SECONDS, PROBE_SECONDS, PROBES = 30, 10, 3
# What psql ends with where it has no session.
_NO_SESSION = 2
_FOLDER = "/tmp/kit"  # noqa: S108 - in memory, inside the container
_SERVICE, _PASSWORDS, _AUTHORITIES = f"{_FOLDER}/service", f"{_FOLDER}/passwords", f"{_FOLDER}/authorities.pem"
_READY = "kit is ready"
# Longer than the longest of all that is done by one: a backup is dumped, read, and restored.
_TIMES = 4


@contextmanager
def reached(docker: Docker, wanted: Database) -> Iterator[Container]:
    """Give what runs PostgreSQL's client programs for a database, until the block is left.

    Args:
        docker: the stack's containers; while the block lasts, they have one for the external database's service.
        wanted: the database.

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
    with streams.open_to(_words(docker, wanted), _TIMES * docker.stack.backup.timeout_seconds) as (_, stdin, stdout):
        try:
            # Where it has ended already, what it said tells why.
            with suppress(BrokenPipeError):
                stdin.write(_script(docker, wanted).encode())
                stdin.flush()
            said = stdout.readline().decode("utf-8", "replace")
            if said.strip() != _READY:
                raise _not_started(docker, said + stdout.read().decode("utf-8", "replace"))
            name = throw_away.name_of(docker, "client")
            done = command.demand(["docker", "inspect", name], code="docker", remedy="docker info")
            client = container_of(json.loads(done.out)[0])
            _demand_same_major(docker, wanted, client)
            docker.lent[wanted.service] = client
            try:
                yield client
            except EngineError as error:
                _demand_answering(docker, client, wanted, error)
                raise
        finally:
            docker.lent.pop(wanted.service, None)
            command.run(["docker", "rm", "--force", throw_away.name_of(docker, "client")])


def demand_restorable(docker: Docker, server: Container, wanted: Database) -> None:
    """Refuse to restore where the user could not put another database into the place of the one in use.

    Args:
        docker: the stack's containers.
        server: what :func:`reached` gave.
        wanted: the database; what the stack runs itself lets its user do all.

    Raises:
        EngineError: it may not; the message says what an administrator has to grant.
    """
    if not isinstance(wanted, External):
        return
    quoted = wanted.name.replace("'", "''")
    question = (
        "SELECT rolsuper OR rolcreatedb, rolsuper OR pg_has_role(current_user, datdba, 'USAGE') "  # noqa: S608 - quoted
        f"FROM pg_roles, pg_database WHERE rolname = current_user AND datname = '{quoted}'"
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


def _words(docker: Docker, wanted: External) -> list[str]:
    """No password, and not even the address: all that comes by standard input, whose end is the container's."""
    if not image_id(wanted.image):
        raise EngineError(
            "image",
            f"Image {wanted.image}, whose pg_dump backs the external database up, is not on this host. Nothing was "
            "changed.",
            docker.stack.make("deploy") + "    (brings it along)",
        )
    return [
        *throw_away.words(docker, throw_away.name_of(docker, "client"), (), network=_network(docker)),
        *("--rm", "--interactive", "--log-driver", "none", "--read-only", "--user", "65534:65534"),
        *("--tmpfs", "/tmp:size=16m,mode=1777", "--env", "HOME=/tmp"),  # noqa: S108 - inside the container
        *("--env", f"PGSERVICEFILE={_SERVICE}", "--env", "PGSERVICE=kit", "--env", f"PGPASSFILE={_PASSWORDS}"),
        *("--entrypoint", "sh", wanted.image),
    ]


def _network(docker: Docker) -> str:
    """The network by which the app's containers reach what is outside of the stack."""
    config = docker.configuration
    known: dict[str, Any] = config.get("networks") or {}
    mine = [known[name] for name in config["services"][docker.stack.web].get("networks") or () if name in known]
    outer = [one for one in mine if not one.get("internal")] or mine
    return str(outer[0]["name"]) if outer else f"{docker.stack.project}_default"


def _script(docker: Docker, wanted: External) -> str:
    """What the container's shell is told: keep these files, then wait for our end."""
    secrets = _secrets(docker)
    service = {
        "host": wanted.host, "port": wanted.port, "user": wanted.user, "dbname": wanted.name,
        "sslmode": wanted.sslmode, "connect_timeout": CONNECT_SECONDS, "application_name": "kit backup",
        "keepalives_idle": IDLE_SECONDS, "keepalives_interval": PROBE_SECONDS, "keepalives_count": PROBES,
        # Milliseconds; the same for what was sent, such as the rows of a restore.
        "tcp_user_timeout": (IDLE_SECONDS + PROBE_SECONDS * PROBES) * 1000,
    }  # fmt: skip
    authorities = str(secrets.get("root_certificate") or "")
    if authorities:
        service["sslrootcert"] = _AUTHORITIES
    password = re.sub(r"([\\:])", r"\\\1", str(secrets["password"]))
    files = {
        _SERVICE: "\n".join(["[kit]", *(f"{name}={value}" for name, value in service.items())]),
        _PASSWORDS: f"*:*:*:*:{password}",
        _AUTHORITIES: authorities,
    }
    lines = ["umask 077", f"mkdir {_FOLDER}"]
    for path, text in files.items():
        end = uuid.uuid4().hex
        lines += [f"cat >{path} <<'{end}'", text, end]
    return "\n".join([*lines, f"echo {shlex.quote(_READY)}", "exec cat >/dev/null", ""])


def _secrets(docker: Docker) -> dict[str, Any]:
    path = docker.stack.bundle / "secrets" / EXTERNAL_SECRETS
    told: Any = None
    with suppress(OSError, ValueError):
        told = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(told, dict) or not told.get("password"):
        problem = f"{path} has no password of the external database."
        raise EngineError("database", problem, docker.stack.make("deploy") + "    (writes it)")
    return told


def _demand_same_major(docker: Docker, wanted: External, client: Container) -> None:
    """An older client refuses a newer server, and what a newer one dumps may not load into an older server."""
    done = _ask(docker, client, wanted, wanted.name, "SHOW server_version")
    if done.code:
        raise EngineError(
            "database",
            f"{wanted.place} does not let user {wanted.user} into database {wanted.name}:\n"
            f"{command.tail(done.err)}\nNothing was changed.",
            f"compare release_bundle_database_* and the password in the vault of {docker.stack.env} with the server's",
        )
    server = done.out.strip()
    brought = docker.execute(client, ["pg_dump", "--version"], limit=command.QUICK_SECONDS).out
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


def _demand_answering(docker: Docker, client: Container, wanted: External, error: EngineError) -> None:
    """Say of what failed that the server has become silent: a program that waited for it could only be stopped."""
    try:
        done = _ask(docker, client, wanted, wanted.name, "SELECT 1")
        silent, said = done.code == _NO_SESSION, command.tail(done.err)
    except EngineError as late:
        silent, said = True, late.problem
    if silent:
        raise EngineError(
            error.code,
            f"{error.problem}\n{wanted.place} gives user {wanted.user} no session of database {wanted.name} any more:\n"
            f"{said}",
            f"see that {wanted.host} and the way there work, then repeat the command",
        ) from error


def _ask(docker: Docker, client: Container, wanted: External, name: str, question: str) -> command.Done:
    words = ["psql", "--no-psqlrc", "--no-password", "--tuples-only", "--no-align", f"--username={wanted.user}"]
    words += [f"--dbname={name}", f"--command={question}"]
    return docker.execute(client, words, limit=CONNECT_SECONDS + command.QUICK_SECONDS)


def _not_started(docker: Docker, said: str) -> EngineError:
    return EngineError(
        "docker",
        f"The client for the external database did not start:\n{command.tail(said)}\nNothing was changed.",
        docker.stack.make("deploy") + "    (makes the app's network and brings the image)",
    )
