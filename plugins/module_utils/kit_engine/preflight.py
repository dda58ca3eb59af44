"""What this host must offer, judged before anything is started; all problems at once."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kit_engine import command, disk, docker_socket, ports
from kit_engine.database import majors
from kit_engine.docker import Container, Docker, compose_plugin, image_id
from kit_engine.errors import CheckFailed, EngineError
from kit_engine.stack import Port, Stack

Version = tuple[int, int]
# BuildKit's mounts of caches and secrets came with Engine 20.10; no test tries Compose before 2.20.
OLDEST_ENGINE: Version = (20, 10)
OLDEST_COMPOSE: Version = (2, 20)


def check(docker: Docker, *, delivered: bool = True, grows: bool = True) -> list[Container]:
    """Judge the host.

    Args:
        docker: the stack's containers.
        delivered: whether the images are there already; else what depends on them is judged later.
        grows: whether what follows needs room on the disks; a rollback, which a full one may call for, does not.

    Returns:
        The stack's containers, as found.

    Raises:
        CheckFailed: with every problem found; without an engine that answers, those that need none.
    """
    stack = docker.stack
    info, problems = _engine(stack)
    engine_folder = Path(str(info["DockerRootDir"])) if info.get("DockerRootDir") else None
    if grows:
        problems += disk.problems([engine_folder, stack.root], stack.limits.min_free_bytes)
    containers = docker.containers() if info else []
    if info:
        problems += _ports(docker, containers)
        problems += _database(docker, containers, delivered)
    else:
        problems += [problem for port in stack.ports for problem in _held_by_process(stack, port)]
    if problems:
        raise CheckFailed(problems)
    return containers


def version(text: str) -> Version | None:
    """Read major and minor of a version such as ``v2.26.1-4`` or ``20.10.24+dfsg1``; None if there is none."""
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _engine(stack: Stack) -> tuple[Mapping[str, Any], list[EngineError]]:
    install = "make deploy    (installs what is missing)" if stack.env == "local" else stack.make("provision")
    info = docker_socket.get("/info")
    plugin = compose_version() if info else ""
    if info and plugin:
        return info, [*_old_engine(info), *_compose(plugin, install)]
    try:
        done = command.run(["docker", "info", "--format", "{{json .}}"])
    except EngineError as error:
        if error.code == "missing":
            return {}, [EngineError("engine", "Docker is not installed: there is no `docker` command.", install)]
        return {}, [EngineError("engine", f"The Docker engine does not answer. {error.problem}", "docker info")]
    info = _json_object(done.out)
    if not info.get("ServerVersion"):
        said = "\n".join([*info.get("ServerErrors", []), done.err]).strip()
        return {}, [unreachable(said, install)]
    plugins = (info.get("ClientInfo") or {}).get("Plugins") or []
    found = next((p.get("Version", "") for p in plugins if p.get("Name") == "compose"), None)
    return info, [*_old_engine(info), *_compose(found, install)]


def _old_engine(info: Mapping[str, Any]) -> list[EngineError]:
    found = version(str(info["ServerVersion"]))
    if found is not None and found >= OLDEST_ENGINE:
        return []
    return [
        EngineError(
            "engine_version",
            f"Docker engine {info['ServerVersion']} is too old; {_text(OLDEST_ENGINE)} or newer is needed.",
            "upgrade Docker from its own packages or the distribution's, then repeat the command",
        )
    ]


def compose_version() -> str:
    """Ask Compose itself for its version, without Docker's client, which would ask all of its plugins.

    Returns:
        Such as ``2.26.1-4``; empty where the client has to be asked.
    """
    program = compose_plugin()
    done = command.run([program, "docker-cli-plugin-metadata"]) if program else None
    return str(_json_object(done.out).get("Version", "")) if done else ""


def _compose(found: str | None, install: str) -> list[EngineError]:
    if found is None:
        one = " docker-compose (version 1) is there, and is not enough." if shutil.which("docker-compose") else ""
        return [EngineError("compose", f"Docker has no `compose` plugin (Compose v2).{one}", install)]
    seen = version(found)
    if seen is None or seen < OLDEST_COMPOSE:
        return [
            EngineError(
                "compose", f"Docker Compose {found} is too old; {_text(OLDEST_COMPOSE)} or newer is needed.", install
            )
        ]
    return []


def unreachable(said: str, install: str) -> EngineError:
    """Judge what Docker's client said when no engine answered.

    Args:
        said: its message.
        install: the command that installs or starts an engine.

    Returns:
        The problem with the remedy that fits.
    """
    if "permission denied" in said.lower():
        return EngineError(
            "engine_permission",
            f"This user may not use Docker's socket:\n{command.tail(said)}",
            "sudo usermod -aG docker $USER    (then log in again), or run the command with sudo",
        )
    return EngineError("engine", f"The Docker engine is not running or not reachable:\n{command.tail(said)}", install)


def _ports(docker: Docker, containers: list[Container]) -> list[EngineError]:
    stack = docker.stack
    # One of ours that is just being restarted holds its port, though `docker ps` does not say so.
    ours = {port for item in containers if item.state in ("running", "restarting") for port in item.ports}
    published = ports.published()
    problems = []
    for port in stack.ports:
        if port.port in ours:
            continue
        holders = [one for one in published if one[1] == port.port and ports.same_address(one[0], port.address)]
        if holders:
            _, _, name, project = holders[0]
            owner = f"container {name}" + (f" of Compose project {project}" if project else "")
            problems.append(_port_taken(stack, port, ports.Holder(owner)))
        else:
            problems += _held_by_process(stack, port)
    return problems


def _held_by_process(stack: Stack, port: Port) -> list[EngineError]:
    if not ports.is_taken(port.address, port.port):
        return []
    return [_port_taken(stack, port, ports.holder(port.port))]


def _port_taken(stack: Stack, port: Port, owner: ports.Holder) -> EngineError:
    other = ports.free_port(port.address, port.port) or port.port + 1
    # What the distribution's own service holds is mostly a package that came along, such as nginx or Apache.
    stop = f"systemctl disable --now {owner.service}" if owner.service else "stop what holds it"
    if port.choose.isupper():
        remedy = f"{stack.make('deploy', f'{port.choose}={other}')}    (or {stop})"
    elif owner.service:
        remedy = f"{stop}    (on the host; or set {port.choose}: {other} in inventories/{stack.env})"
    else:
        remedy = f"set {port.choose}: {other} in inventories/{stack.env} (or {stop})"
    problem = f"Port {port.port} on {port.address}, wanted by service {port.service}, is taken by {owner.text}."
    return EngineError("port", problem, remedy)


def _database(docker: Docker, containers: list[Container], delivered: bool) -> list[EngineError]:
    database = docker.stack.database
    if database is None:
        return []
    image = image_id(database.image)
    if not image and not delivered:
        return []
    if not image:
        problem = f"Image {database.image} of service {database.service} is not on this host."
        return [EngineError("image", problem, docker.stack.make("deploy"))]
    if any(c.running and c.image == image for c in containers if c.service == database.service):
        return []
    found = majors(docker, database)
    if found is None or found[0] == found[1]:
        return []
    return [
        EngineError(
            "database_major",
            f"Volume {database.volume} was written by PostgreSQL {found[0]}, and {database.image} is PostgreSQL "
            f"{found[1]}. A server of another major version cannot read it.",
            f"name an image of PostgreSQL {found[0]} (base_images_tags in inventories/{docker.stack.env}) and dump the "
            f"data with it, to restore it into a new volume; or, if the data may go: {docker.stack.make('destroy')}",
        )
    ]


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _text(wanted: Version) -> str:
    return f"{wanted[0]}.{wanted[1]}"
