"""The verbs that a deploy from a control node goes by: judge the host, take a release and bring it up."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Optional

from kit_engine import (
    bundle,
    certificate,
    current,
    edge,
    image_transfer,
    preflight,
    readiness,
    release,
    releases,
    verbs,
)
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
    if other:
        raise CheckFailed([other])
    docker = Docker(wanted)
    preflight.check(docker, delivered=False)
    report: Report = arguments.report
    images = image_transfer.result(image_transfer.standing(root, asked.get("images", [])))
    there = {**_current(root), "certificate": _certificate(wanted)}
    told = {"changed": False, "time": time.time(), "current": there, "images": images}
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
    record = releases.read(root, release_id)
    good = record is not None and record.state == "good"
    return {
        "id": release_id,
        "configuration": bundle.hash_of(docker.stack.bundle),
        "serves": good and serves(docker),
    }


def serves(docker: Docker) -> bool:
    """Tell whether every part of the stack is as it was brought up, and the site is ready."""
    stack = docker.stack
    as_noted = current.services(docker, docker.containers(), current.fingerprints(docker))
    return (
        set(stack.services) <= as_noted
        and edge.is_current(stack)
        and readiness.ask(stack.probe, stack.probe.ready) is None
    )


def release_verb(arguments: argparse.Namespace) -> None:
    """Take a release from standard input, or none for the current one, bring it up and make it the current one.

    The request: ``id``, ``configuration`` (hash of the content; empty: the current release is brought up again) and
    the facts of the record.
    """
    report: Report = arguments.report
    root: Path = arguments.root.resolve()
    asked = json.loads(arguments.request)
    facts = {name: asked[name] for name in ("env", "ref", "sha", "dirty", "image", "who")}
    given = releases.current(root)
    if asked["configuration"]:
        given = releases.receive(root, str(asked["id"]), str(asked["configuration"]), sys.stdin.buffer)
    docker = Docker(stacks.load(root, root / releases.FOLDER / given))
    known = None if asked["configuration"] else releases.read(root, given)
    record = known or releases.Record(
        id=given, started=releases.now(), configuration=bundle.hash_of(docker.stack.bundle), **facts
    )
    record.state, record.image_id = "running", image_id(record.image)
    releases.write(root, record)
    try:
        changes = release.up(docker, report)
    except BaseException as error:
        record.state, record.finished = "failed", releases.now()
        record.reason = error.problem if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
        record.seconds = dict(report.seconds)
        releases.write(root, record)
        raise
    releases.switch(root, given)
    record.state, record.finished = "good", releases.now()
    record.seconds, record.migrations, record.reason = dict(report.seconds), changes.migrations, ""
    releases.write(root, record)
    text = f"{docker.stack.name} ({docker.stack.env}) is ready: {verbs.site_url(docker)}, release {given}"
    result = {**changes.as_result(), "release": given, "message": text, "seconds": report.seconds}
    report.done({**result, "changed": True}, text)
