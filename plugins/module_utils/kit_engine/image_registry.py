"""Push to and pull from a registry, with a credential that lies nowhere for longer than that takes."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kit_engine import command, image_transfer, memory_files
from kit_engine.command import run, tail
from kit_engine.docker import image_id
from kit_engine.errors import EngineError
from kit_engine.report import Report

PULL_SECONDS = 600.0
# Docker Hub's own name in Docker's configuration.
_HUB = "https://index.docker.io/v1/"


@dataclass(frozen=True)
class Credential:
    """Who pushes or pulls.

    Attributes:
        registry: host and path; only the host matters.
        user: empty where the registry asks for none.
        password: never printed, and in no argument.
    """

    registry: str
    user: str
    password: str

    @property
    def host(self) -> str:
        """The registry's name in Docker's configuration."""
        host = self.registry.partition("/")[0]
        return _HUB if host in ("docker.io", "index.docker.io") else host


@dataclass(frozen=True)
class Pulled:
    """An image to pull.

    Attributes:
        ref: the reference that it gets.
        source: where it is pulled from, by digest.
        layers: diff ids that it must have, the lowest first.
    """

    ref: str
    source: str
    layers: tuple[str, ...]


@contextmanager
def docker_as(credential: Credential, sudo: Sequence[str] = ()) -> Iterator[list[str]]:
    """Give the words of a `docker` that is logged in, and log out at the end, whatever it is.

    `docker login` is not used: where a credential helper is on PATH, it would keep the password in there.

    Args:
        credential: of the registry.
        sudo: words before it, where Docker's socket asks for more rights.

    Yields:
        The words, such as ``docker --config <temporary folder>``.
    """
    host = os.environ.get("DOCKER_HOST") or _endpoint(sudo)
    with _unless_ended(), memory_files.folder("kit-registry-") as folder:
        if credential.user:
            path = folder / "config.json"
            path.touch(mode=0o600)
            word = base64.b64encode(f"{credential.user}:{credential.password}".encode()).decode()
            path.write_text(json.dumps({"auths": {credential.host: {"auth": word}}}), encoding="utf-8")
        # The user's context lies in the configuration that is not used here.
        yield [*sudo, "docker", "--config", str(folder), *(["--host", host] if host else [])]


def pull(images: Sequence[Pulled], credential: Credential, report: Report) -> list[str]:
    """Pull images by digest and give each its name.

    Args:
        images: which.
        credential: of the registry.
        report: takes progress lines.

    Returns:
        The references of those that were not here before.

    Raises:
        EngineError: the registry refuses or is not reached, or an image is not the expected one.
    """
    brought = []
    with docker_as(credential) as docker:
        for image in images:
            if image_id(image.ref):
                continue
            began = time.monotonic()
            report.say(f"pulling {image.source} …")
            done = run([*docker, "pull", "--quiet", image.source], limit=PULL_SECONDS)
            if done.code:
                raise refused(image.source, credential, done.err)
            if not image_transfer.is_made_of(image.source, image.layers):
                raise EngineError(
                    "registry",
                    f"{image.source} is not the image that was pushed.",
                    "repeat the command; it pushes again",
                )
            command.demand(["docker", "tag", image.source, image.ref], code="registry", remedy="docker info")
            report.say(f"pulled {image.ref} in {time.monotonic() - began:.0f} s")
            brought.append(image.ref)
    return brought


def refused(what: str, credential: Credential, said: str) -> EngineError:
    """Tell why a registry did not take or give an image.

    Args:
        what: the image.
        credential: that was used.
        said: Docker's own words.

    Returns:
        The error with the remedy that fits.
    """
    low = said.lower()
    who = f"user {credential.user}" if credential.user else "nobody (app_image_registry_user is empty)"
    if any(word in low for word in ("unauthorized", "denied", "authentication required", "no basic auth")):
        remedy = "correct app_image_registry_user and app_image_registry_password in the inventory"
        return EngineError("registry", f"The registry refuses {what} to {who}:\n{tail(said, 3)}", remedy)
    remedy = f"curl -I https://{credential.registry.partition('/')[0]}/v2/    (reached from there?)"
    return EngineError(
        "registry",
        f"{what} did not come through:\n{tail(said, 3)}",
        f"{remedy}; or without a registry: app_image_delivery: transfer",
    )


def _endpoint(sudo: Sequence[str]) -> str:
    return run([*sudo, "docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]).out.strip()


@contextmanager
def _unless_ended() -> Iterator[None]:
    """Leave in order when we are told to end, so that what must be removed is."""

    def leave(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
