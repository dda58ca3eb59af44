"""The real engine of this machine, and the base images that `make test` has brought to it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from kit_control import app_image as app_image_plan
from kit_control import manifest
from kit_engine import app_image as app_image_engine
from kit_engine.base_images import recipe
from kit_engine.report import Report

from support.kit import ROOT

# 500 MB, on a machine that runs other tests too.
BRING_SECONDS = 300
RECORD = ROOT / "build/test/records/base_images.json"


@cache
def base_images() -> dict[str, dict[str, Any]]:
    """Facts of the base images, by name."""
    images: dict[str, dict[str, Any]] = json.loads(RECORD.read_text())["images"]
    return images


def base_image(name: str) -> str:
    """Reference of a base image, from whichever source this machine has it."""
    assert name in recipe.NAMES
    return str(base_images()[name]["ref"])


@cache
def app_image(manifest_path: Path, target: str) -> str:
    """Build the image of a project as role app_image does, and give its reference."""
    plan = app_image_plan.plan(manifest.load(manifest_path), ROOT, target, base_images()["python"])
    with tempfile.NamedTemporaryFile(suffix=".tar") as packed:
        packed.write(plan.context)
        packed.seek(0)
        request = app_image_engine.Request(plan.ref, plan.target, plan.arguments, plan.labels)
        return str(app_image_engine.ensure(request, packed.file, Report("app-image", as_json=True))["image"]["ref"])


def bring(ssh_words: Sequence[str], images: Sequence[str]) -> None:
    """Bring images of this machine to a host's engine; a deploy does it in compressed layers, which takes longer.

    Args:
        ssh_words: start a session on the host.
        images: references.
    """
    with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as save:
        load = [*ssh_words, "sudo docker load"]
        subprocess.run(load, stdin=save.stdout, check=True, capture_output=True, timeout=BRING_SECONDS)
