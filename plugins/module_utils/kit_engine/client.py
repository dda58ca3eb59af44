"""A container of PostgreSQL's client programs, which comes to a server over a network and ends when we do.

It holds what it needs to log in, in its own memory: whatever runs inside it reads the service and the password from
there, and no command line and no `docker inspect` has them.
"""

from __future__ import annotations

import json
import re
import shlex
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from kit_engine import backup_role, command, streams, throw_away
from kit_engine.docker import Container, Docker, container_of
from kit_engine.errors import EngineError

# A server that is there answers at once; one behind a firewall that drops packets never does.
CONNECT_SECONDS = 10
# And a connection that fell silent would be waited for until two hours have passed. One that is idle, as that which
# holds the snapshot of a long dump, is dropped by many a firewall after some minutes.
IDLE_SECONDS, PROBE_SECONDS, PROBES = 30, 10, 3
# Who is nobody inside.
NOBODY = "65534:65534"
_FOLDER = "/tmp/kit"  # noqa: S108 - in memory, inside the container
_SERVICE, _PASSWORDS, _AUTHORITIES = f"{_FOLDER}/service", f"{_FOLDER}/passwords", f"{_FOLDER}/authorities.pem"
_READY = "kit is ready"
_SHARED = "container:"
# More than the longest of all that is done by one takes: a backup of what is there is dumped, dumped anew, read, and
# restored for a test; then one is loaded, and counted.
_TIMES = 8


@dataclass(frozen=True)
class Way:
    """How a client comes to a server.

    Attributes:
        image: whose programs it runs.
        network: that it is in.
        service: what libpq connects by, such as ``host``; no secret.
        password: of the user; empty where none is asked for.
        authorities: certificates, as PEM, that the server's must come from; may be empty.
    """

    image: str
    network: str
    service: Mapping[str, Any]
    password: str = ""
    authorities: str = ""

    @property
    def is_beside(self) -> bool:
        """Whether the server is a container of this host, whose network the client shares."""
        return self.network.startswith(_SHARED)


def beside(container: str, image: str, user: str, password: str = "") -> Way:
    """Give the way to a server in a container of this host: by its own loopback, where it has no network but that.

    Args:
        container: id or name.
        image: that it runs.
        user: role.
        password: of the role, if the server asks for one.
    """
    service = {"host": "127.0.0.1", "port": 5432, "user": user}
    return Way(image, f"{_SHARED}{container}", service, password)


@contextmanager
def opened(
    docker: Docker, purpose: str, way: Way, *, user: str = NOBODY, cpus: int = 1, further: Sequence[str] = ()
) -> Iterator[Container]:
    """Run such a container until the block is left.

    Args:
        docker: the stack's containers.
        purpose: in a word, for its name.
        way: to the server.
        user: number and group that its programs run as.
        cpus: processors that it may use.
        further: words for ``docker run``, such as what is mounted.

    Raises:
        EngineError: it does not start.
    """
    name = throw_away.name_of(docker, purpose)
    words = _words(docker, name, way, user, cpus, further)
    with streams.open_to(words, _TIMES * docker.stack.backup.timeout_seconds) as (_, stdin, stdout):
        try:
            # Where it has ended already, what it said tells why.
            with suppress(BrokenPipeError):
                stdin.write(_script(way).encode())
                stdin.flush()
            said = stdout.readline().decode("utf-8", "replace")
            if said.strip() != _READY:
                raise _not_started(docker, said + stdout.read().decode("utf-8", "replace"))
            done = command.demand(["docker", "inspect", name], code="docker", remedy="docker info")
            yield container_of(json.loads(done.out)[0])
        finally:
            command.run(["docker", "rm", "--force", "--volumes", name])


def _words(docker: Docker, name: str, way: Way, user: str, cpus: int, further: Sequence[str]) -> list[str]:
    """No password, and not even the address: all that comes by standard input, whose end is the container's."""
    return [
        *throw_away.words(docker, name, (), network=way.network, cpus=cpus),
        *("--rm", "--interactive", "--log-driver", "none", "--read-only", "--user", user),
        *("--tmpfs", "/tmp:size=16m,mode=1777", "--env", "HOME=/tmp"),  # noqa: S108 - inside the container
        *("--env", f"PGSERVICEFILE={_SERVICE}", "--env", "PGSERVICE=kit", "--env", f"PGPASSFILE={_PASSWORDS}"),
        *further, "--entrypoint", "sh", way.image,
    ]  # fmt: skip


def _script(way: Way) -> str:
    """What the container's shell is told: keep these files, then wait for our end."""
    service = {
        **way.service, "connect_timeout": CONNECT_SECONDS, "application_name": backup_role.APPLICATION,
        # Without tcp_user_timeout, which also ends a connection whose server is alive and takes nothing for a while.
        "keepalives_idle": IDLE_SECONDS, "keepalives_interval": PROBE_SECONDS, "keepalives_count": PROBES,
    }  # fmt: skip
    if way.authorities:
        service["sslrootcert"] = _AUTHORITIES
    password = re.sub(r"([\\:])", r"\\\1", way.password)
    files = {
        _SERVICE: "\n".join(["[kit]", *(f"{name}={value}" for name, value in service.items())]),
        _PASSWORDS: f"*:*:*:*:{password}" if password else "",
        _AUTHORITIES: way.authorities,
    }
    lines = ["umask 077", f"mkdir {_FOLDER}"]
    for path, text in files.items():
        end = uuid.uuid4().hex
        lines += [f"cat >{path} <<'{end}'", text, end]
    return "\n".join([*lines, f"echo {shlex.quote(_READY)}", "exec cat >/dev/null", ""])


def _not_started(docker: Docker, said: str) -> EngineError:
    return EngineError(
        "docker",
        f"The client for the database did not start:\n{command.tail(said)}\nNothing was changed.",
        docker.stack.make("deploy") + "    (makes the app's network and brings the image)",
    )
