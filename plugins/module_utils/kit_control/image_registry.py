"""Bring images to hosts by a registry: this machine pushes what is its own, hosts pull by digest."""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kit_engine import command, image_registry
from kit_engine.errors import EngineError
from kit_engine.image_registry import Credential

from kit_control.errors import KitError
from kit_control.image_pieces import Local
from kit_control.image_transfer import Host

PUSH_SECONDS = 600.0
# The hosts of one deploy ask within seconds of each other; a later deploy asks the registry again.
PUSHED_SECONDS = 300.0


def deliver(
    host: Host, images: Sequence[Local], credential: Credential, folder: Path, sudo: Sequence[str], min_free_bytes: int
) -> dict[str, Any]:
    """Push what no registry has yet, and have the host pull.

    Args:
        host: where to.
        images: those that it lacks.
        credential: of the registry.
        folder: keeps what was pushed a moment ago, for the other hosts.
        sudo: words before `docker` on this machine, where its socket asks for more rights.
        min_free_bytes: what the host's disks must have free.

    Returns:
        ``digests``: by reference, where each was pulled from; ``identities`` and ``seconds`` as of a transfer.

    Raises:
        KitError: the registry or the host refused.
    """
    began = time.monotonic()
    digests = {image.ref: _source(image, credential, folder, sudo) for image in images}
    request = {
        "mode": "pull",
        "registry": credential.registry,
        "images": [{"ref": i.ref, "source": digests[i.ref], "layers": i.layers} for i in images],
        "min_free_bytes": min_free_bytes,
    }
    secret = {"user": credential.user, "password": credential.password}
    host.call(request, json.dumps(secret).encode())
    identities = {image.ref: image.id for image in images}
    return {"digests": digests, "identities": identities, "seconds": round(time.monotonic() - began, 2)}


def repository(registry: str, ref: str) -> str:
    """Name an image in the registry: ``<registry>/<last word of its name>:<tag>``."""
    return f"{registry.rstrip('/')}/{ref.rpartition('/')[2]}"


def _source(image: Local, credential: Credential, folder: Path, sudo: Sequence[str]) -> str:
    if "@sha256:" in image.source:
        return image.source
    target = repository(credential.registry, image.ref)
    path = folder / f"{hashlib.sha256(f'{target} {image.id}'.encode()).hexdigest()}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.is_file() and time.time() - path.stat().st_mtime < PUSHED_SECONDS:
            known: Mapping[str, str] = json.loads(path.read_text(encoding="utf-8"))
            return known["digest"]
        try:
            digest = _push(image, target, credential, sudo)
        except EngineError as error:
            raise KitError(error.code, error.problem, error.remedy) from None
        path.write_text(json.dumps({"image": target, "digest": digest}), encoding="utf-8")
    return digest


def _push(image: Local, target: str, credential: Credential, sudo: Sequence[str]) -> str:
    """Push an image; gives its place by digest."""
    with image_registry.docker_as(credential, sudo) as docker:
        command.demand([*docker, "tag", image.source, target], code="registry", remedy="docker info")
        try:
            done = command.run([*docker, "push", "--quiet", target], limit=PUSH_SECONDS)
            if done.code:
                raise image_registry.refused(target, credential, done.err)
            words = ["image", "inspect", "--format", "{{json .RepoDigests}}", target]
            told = command.demand([*docker, *words], code="registry", remedy="docker info").out
        finally:
            command.run([*docker, "image", "rm", "--no-prune", target])
    name = target.rpartition(":")[0]
    found = [str(digest) for digest in json.loads(told) if str(digest).startswith(f"{name}@")]
    if not found:
        raise EngineError(
            "registry", f"`docker push` told no digest of {target}.", "docker info    (is it up to date?)"
        )
    return found[0]
