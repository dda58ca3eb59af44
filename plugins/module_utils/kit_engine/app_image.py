"""Bring the app's image: build it where it is not there yet."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kit_engine import command, disk, docker_socket, image_build, machine
from kit_engine.docker import image_id
from kit_engine.errors import EngineError
from kit_engine.report import Report

# Images of one project and target that stay on a machine that only makes them, for hosts that are deployed to in turn.
KEPT_IMAGES = 5
# Engines since 23.0 bound their cache by themselves; what older ones keep grows with every build.
KEPT_CACHE = "10GB"
PRUNE_SECONDS = 120.0


@dataclass(frozen=True)
class Request:
    """The image that shall be there.

    Attributes:
        ref: its name, whose tag carries the hash of its content.
        target: stage of the Dockerfile.
        arguments: build arguments.
        labels: labels of the image.
        extra_ca_bundle: certificates for downloads; ``machine`` means the machine's own where it is not the stock one.
        check_only: say whether it is lacking and build nothing.
        min_free_bytes: what the disks must have free before anything is built.
    """

    ref: str
    target: str
    arguments: Mapping[str, str]
    labels: Mapping[str, str]
    extra_ca_bundle: str = "machine"
    check_only: bool = False
    min_free_bytes: int = 0


def ensure(request: Request, context: IO[bytes], report: Report) -> dict[str, Any]:
    """Build the image if no image of its name is there.

    Args:
        request: what is asked for.
        context: the build context, a tar archive; read only if the image is built.
        report: takes progress lines.

    Returns:
        ``changed``, and ``image`` with ``ref``, ``id`` (empty where only checking) and ``target``.

    Raises:
        EngineError: the build failed or took too long.
    """
    there = image_id(request.ref)
    if not there and not request.check_only:
        disk.demand(Path(tempfile.gettempdir()), request.min_free_bytes)
        started = time.monotonic()
        report.say(f"building {request.ref} …")
        image_build.build(
            request.ref,
            context,
            code="app_image",
            arguments=request.arguments,
            extra_ca_bundle=machine.extra_ca_bundle(request.extra_ca_bundle),
            target=request.target,
            labels=request.labels,
        )
        report.say(f"built {request.ref} in {time.monotonic() - started:.0f} s")
    image = {"ref": request.ref, "id": there or image_id(request.ref), "target": request.target}
    return {"changed": not there, "image": image}


def drop_older(ref: str, report: Report) -> list[str]:
    """Remove the images that newer ones of the same project and target have replaced, but for the last few.

    Not at each build, which somebody waits for: when there are twice as many as stay. The engine's cache of builds is
    bounded then, too.

    Args:
        ref: name of the newest, as :class:`Request` has it.
        report: told of a cache that cannot be bounded.

    Returns:
        Names of those that are gone. One that a container uses stays: Docker refuses.
    """
    name, _, tag = ref.partition(":")
    target = tag.rpartition("-")[0]
    told = command.run(["docker", "image", "ls", "--format", "{{.CreatedAt}} {{.Tag}}", name])
    rows = sorted(
        (line for line in told.out.splitlines() if line.rpartition(" ")[2].startswith(f"{target}-")), reverse=True
    )
    if len(rows) <= 2 * KEPT_IMAGES:
        return []
    bound_cache(report)
    older = [f"{name}:{row.rpartition(' ')[2]}" for row in rows if not row.endswith(f" {tag}")][KEPT_IMAGES - 1 :]
    return [one for one in older if command.run(["docker", "image", "rm", one], limit=PRUNE_SECONDS).code == 0]


def bound_cache(report: Report) -> None:
    """Remove what was used longest ago of the cache of builds, where it is bigger than what stays.

    Args:
        report: told of a cache that cannot be bounded. The next build tries again: no deploy fails for it.
    """
    words = ["docker", "buildx", "prune", f"--builder={docker_socket.builder()}", "--force"]
    try:
        command.demand(
            [*words, "--keep-storage", KEPT_CACHE], code="app_image", remedy="docker buildx du", limit=PRUNE_SECONDS
        )
    except EngineError as error:
        report.say(f"The cache of builds stays as big as it is: {error.problem}")
