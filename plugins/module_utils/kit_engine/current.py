"""Which services run exactly as this release wants them.

Compose's own hash cannot be asked for: for a service with an env_file, ``config --hash`` prints another one than
``up`` compares (seen with Compose 2.26). So the engine notes what it brought up, and from which configuration.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from kit_engine import bundle
from kit_engine.docker import Container, Docker, image_id

RECORD = "records/running.json"
# Among the notes, which go by service: what was brought up as a whole. No service can have this name.
WHOLE = "/"


def fingerprints(docker: Docker, secrets: Optional[Mapping[str, str]] = None) -> dict[str, str]:
    """Hash each service's configuration as Compose reads it, environment and all.

    Args:
        docker: the stack's containers.
        secrets: one hash by service over its secrets; default: of those that are mounted now.

    Returns:
        SHA-256 by service name.

    Raises:
        EngineError: Compose cannot read the file.
    """
    config = docker.configuration
    contents = _secrets(docker) if secrets is None else secrets
    shared = {name: config.get(name) for name in ("networks", "volumes", "secrets")}
    return {name: _hash([service, shared, contents[name]]) for name, service in config["services"].items()}


def with_other_secrets(docker: Docker, containers: Sequence[Container], folder: Optional[Path] = None) -> set[str]:
    """Name the services that must be made anew although Compose sees no difference: it knows a secret's file by name.

    Args:
        docker: the stack's containers.
        containers: all that there are.
        folder: where the secrets lie; default: where they are mounted from.

    Returns:
        Those whose own mounted secrets hold something else than when they were brought up; a secret of another
        service is no reason. Never the database: it reads its password only when it makes its volume, and
        database_password brings another one without a restart.
    """
    noted = _read(docker)
    database = docker.stack.database
    there = {container.service for container in containers} - ({database.service} if database else set())
    return {
        name
        for name, contents in _secrets(docker, folder).items()
        if name in there and "secrets" in noted.get(name, {}) and noted[name]["secrets"] != contents
    }


def mounted_by(docker: Docker, names: Collection[str]) -> set[str]:
    """Name the files of the secrets that some services mount."""
    return {Path(file).name for name, mine in _secret_files(docker).items() if name in names for file in mine.values()}


def planned(docker: Docker, containers: Sequence[Container]) -> dict[str, str]:
    """Tell what bringing up a release that is not mounted yet would do to each service's containers.

    Args:
        docker: the release; its secrets are read from its bundle.
        containers: all that there are.

    Returns:
        ``create``, ``recreate``, ``start`` or ``keep`` by service; ``unknown`` for containers that nobody noted.
    """
    stack, noted = docker.stack, _read(docker)
    wanted = fingerprints(docker, _secrets(docker, stack.bundle / "secrets"))
    old_secrets = {name: str(noted.get(name, {}).get("secrets", "")) for name in docker.configuration["services"]}
    but_for_secrets = fingerprints(docker, old_secrets)
    told = {}
    for service in stack.services:
        mine = [item for item in containers if item.service == service]
        # The database takes another password without a restart.
        of_database = stack.database is not None and stack.database.service == service
        before = noted.get(service, {}).get("configuration")
        if not mine:
            told[service] = "create"
        elif before is None:
            told[service] = "unknown"
        elif before not in (wanted[service], but_for_secrets[service] if of_database else "") or any(
            item.in_restart_loop or item.image != (image_id(item.reference) or item.image) for item in mine
        ):
            told[service] = "recreate"
        else:
            told[service] = "keep" if all(item.running for item in mine) else "start"
    return told


def _secrets(docker: Docker, folder: Optional[Path] = None) -> dict[str, str]:
    """One hash by service over what its mounted secrets hold, or those of a folder; empty for a service without any."""
    return _hashes(_secret_files(docker), folder)


def _secret_files(docker: Docker) -> dict[str, dict[str, str]]:
    """By service: the file of each secret that it mounts, by the secret's name."""
    config = docker.configuration
    files = config.get("secrets") or {}
    return {
        name: {one["source"]: files[one["source"]]["file"] for one in service.get("secrets") or ()}
        for name, service in config["services"].items()
    }


def _hashes(mounted: Mapping[str, Mapping[str, str]], folder: Optional[Path] = None) -> dict[str, str]:
    return {
        name: _hash([(secret, _content(path, folder)) for secret, path in files.items()]) if files else ""
        for name, files in mounted.items()
    }


def _content(path: str, folder: Optional[Path]) -> str:
    try:
        return hashlib.sha256((folder / Path(path).name if folder else Path(path)).read_bytes()).hexdigest()
    except OSError:
        return ""


def services(docker: Docker, containers: Sequence[Container], wanted: Mapping[str, str]) -> set[str]:
    """Name the services for which nothing is to be done.

    Args:
        docker: the stack's containers.
        containers: all that there are.
        wanted: the fingerprints of this release.

    Returns:
        Those whose containers run, are the ones that were brought up last, from this configuration, and whose image
        is still the one that its name stands for. None at all if a container belongs to no service any more.
    """
    return _current(docker, containers, wanted, _secrets(docker))


def whole(docker: Docker, content: str) -> bool:
    """Tell whether nothing is to be done for any service of the release that serves.

    Args:
        docker: its containers.
        content: hash of its bundle: while that is what was brought up, Compose need not read its file again, which
            takes longer than all else that is looked at.
    """
    stack, noted = docker.stack, _read(docker)
    before = noted.get(WHOLE, {})
    if stack.release and (before.get("release"), before.get("bundle")) == (stack.release, content):
        wanted = {name: str(noted.get(name, {}).get("configuration", "")) for name in stack.services}
        done = _current(docker, docker.containers(), wanted, _hashes(before["secrets"]))
    else:
        done = services(docker, docker.containers(), fingerprints(docker))
    return set(stack.services) <= done


def _current(
    docker: Docker, containers: Sequence[Container], wanted: Mapping[str, str], contents: Mapping[str, str]
) -> set[str]:
    stack = docker.stack
    noted = _read(docker)
    if any(container.service not in stack.services for container in containers):
        return set()
    images = {reference: image_id(reference) for reference in {item.reference for item in containers}}
    current = set()
    for service in stack.services:
        mine = [item for item in containers if item.service == service]
        as_noted = noted.get(service) == _note(wanted.get(service, ""), contents.get(service, ""), mine)
        if mine and as_noted and all(_sound(item, images[item.reference]) for item in mine):
            current.add(service)
    return current


def remember(docker: Docker, containers: Sequence[Container], wanted: Mapping[str, str]) -> None:
    """Note what runs now.

    Args:
        docker: the stack's containers.
        containers: all that there are.
        wanted: the fingerprints they were brought up from.
    """
    mounted = _secret_files(docker)
    contents = _hashes(mounted)
    note: dict[str, Any] = {
        service: _note(
            wanted.get(service, ""),
            contents.get(service, ""),
            [item for item in containers if item.service == service],
        )
        for service in docker.stack.services
    }
    if docker.stack.release:
        stack = docker.stack
        note[WHOLE] = {"release": stack.release, "bundle": bundle.hash_of(stack.bundle), "secrets": mounted}
    if note != _read(docker):
        record = docker.stack.root / RECORD
        # For its owner alone: the hash of a weak password can be guessed.
        record.touch(mode=0o600)
        record.chmod(0o600)
        record.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def _note(fingerprint: str, secrets: str, containers: Sequence[Container]) -> dict[str, Any]:
    ids = sorted(item.id for item in containers)
    return {"configuration": fingerprint, "secrets": secrets, "containers": ids}


def _sound(container: Container, image: str) -> bool:
    return container.running and not container.in_restart_loop and container.image == image


def _read(docker: Docker) -> dict[str, Any]:
    try:
        noted = json.loads((docker.stack.root / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
