"""Bring the app's image: build it where it is not there yet."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kit_engine import disk, image_build, machine
from kit_engine.docker import image_id
from kit_engine.report import Report


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
