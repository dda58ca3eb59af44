"""The verb that a deploy from a control node begins with: judge the host, and tell what it has."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional

from kit_engine import bundle, certificate, current, edge, preflight, readiness, releases, restic
from kit_engine import stack as stacks
from kit_engine.docker import Docker, image_id
from kit_engine.errors import CheckFailed, EngineError
from kit_engine.report import Report
from kit_engine.stack import Stack


def preflight_verb(arguments: argparse.Namespace) -> None:
    """Judge the host for a stack that it does not have yet, and tell what it has.

    The request: ``stack`` (a stack.json) and, where they come from elsewhere, ``images`` (references of those that it
    runs).
    """
    root: Path = arguments.root.resolve()
    asked = json.loads(arguments.request)
    wanted = stacks.read(asked["stack"], root, root / stacks.CURRENT)
    other = _other_project(wanted)
    lacking = restic.lacking(wanted)
    if other or lacking:
        raise CheckFailed([one for one in (other, lacking) if one])
    report: Report = arguments.report
    # Each waits for others, and none needs what another one tells; what keeps a host from being deployed to is raised.
    with ThreadPoolExecutor(max_workers=3) as at_once:
        images = at_once.submit(_images, root, asked.get("images", []))
        there = at_once.submit(_current, root)
        certificate_there = at_once.submit(_certificate, wanted)
        preflight.check(Docker(wanted), delivered=False)
    told = {
        "changed": False,
        "time": time.time(),
        "current": {**there.result(), "certificate": certificate_there.result()},
        "images": images.result(),
    }
    report.done(told, f"{wanted.project} can be deployed here.")


def _other_project(wanted: Stack) -> Optional[EngineError]:
    """A deploy root belongs to one environment of one project."""
    if not (wanted.root / stacks.CURRENT / stacks.FILE_NAME).is_file():
        return None
    there = stacks.load(wanted.root)
    if there.project == wanted.project:
        return None
    return EngineError(
        "deploy_root",
        f"{wanted.root} on this host holds {there.name} ({there.env}), not {wanted.name} ({wanted.env}).",
        f"give this one a folder of its own: deploy_root: /srv/{wanted.project} in the inventory",
    )


def _certificate(wanted: Stack) -> dict[str, Any]:
    """Tell which certificate is installed, and whether it is what visitors get."""
    if wanted.edge is None:
        return {}
    return certificate.facts(certificate.Place(wanted.root, wanted.name, wanted.edge.uid), wanted.probe)


def _current(root: Path) -> dict[str, Any]:
    """Tell which release serves, what its content is, and whether every part of it is as it was brought up."""
    release_id = releases.current(root)
    if not release_id:
        return {"id": "", "configuration": "", "serves": False}
    docker = Docker(stacks.load(root))
    content = bundle.hash_of(docker.stack.bundle)
    record = releases.read(root, release_id)
    good = record is not None and record.state == "good"
    return {"id": release_id, "configuration": content, "serves": good and serves(docker, content)}


def serves(docker: Docker, content: str) -> bool:
    """Tell whether every part of the stack is as it was brought up, and the site is ready.

    Args:
        docker: the containers of the release that serves.
        content: hash of its bundle.
    """
    stack = docker.stack
    ready = edge.is_current(stack) and edge.leads_to(stack) and readiness.ask(stack.probe, stack.probe.ready) is None
    return ready and current.whole(docker, content)


def _images(root: Path, refs: Sequence[str]) -> dict[str, Any]:
    """Tell which images are here and, where one is lacking, what of it is."""
    there = {ref: image_id(ref) for ref in refs}
    if all(there.values()):
        return {"images": there}
    # Imported here, as few deploys bring images: what packs and unpacks them is a large part of the engine.
    from kit_engine import image_transfer

    return image_transfer.result(image_transfer.standing(root, refs))
