"""The verbs that bring images; they come before a stack is rendered, and take their request as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from kit_engine import app_image, disk, image_registry, image_transfer, releases, retention
from kit_engine.base_images import recipe, resolve
from kit_engine.errors import EngineError
from kit_engine.report import Report


def base_images(arguments: argparse.Namespace) -> None:
    """Bring base images; the request's fields are those of base_images.resolve.Request."""
    report: Report = arguments.report
    asked = json.loads(arguments.request)
    asked["record"] = Path(asked["record"])
    answer = resolve.ensure(resolve.Request(**asked), report.say)
    report.done(answer, ", ".join(facts["ref"] for facts in answer["images"].values()))


def app_image_verb(arguments: argparse.Namespace) -> None:
    """Bring the app's image from its context on standard input; the request's fields are those of app_image.Request."""
    report: Report = arguments.report
    request = app_image.Request(**json.loads(arguments.request))
    # Where releases lie, their retention removes images.
    is_host = (arguments.root / releases.FOLDER).is_dir()
    if is_host and not request.check_only:
        retention.bring(arguments.root, [request.ref])
    answer = app_image.ensure(request, sys.stdin.buffer, report)
    if not request.check_only and answer["changed"]:
        if is_host:
            app_image.bound_cache(report)
            _make_room(arguments.root, [request.ref], report)
        else:
            app_image.drop_older(request.ref, report)
    report.done(answer, str(answer["image"]["ref"]))


def images(arguments: argparse.Namespace) -> None:
    """Bring the images that a stack runs from its control node.

    The request's ``mode``: ``ask`` tells what of ``refs`` is here; ``take`` takes a header line and pieces from
    standard input; ``pull`` takes user and password of a registry from there and pulls ``images``.
    """
    report: Report = arguments.report
    root: Path = arguments.root.resolve()
    asked = json.loads(arguments.request)
    if asked["mode"] == "ask":
        told = image_transfer.standing(root, asked["refs"])
    elif asked["mode"] == "take":
        # Read to its end before anything is judged: a sender whose pipe breaks would hide the reason.
        line, _, body = sys.stdin.buffer.read().partition(b"\n")
        header = image_transfer.Header.read(line)
        retention.bring(root, _of_app(image.ref for image in header.images))
        told = image_transfer.take(root, header, body, report)
    else:
        given = json.loads(sys.stdin.buffer.read())
        wanted = [image_registry.Pulled(one["ref"], one["source"], tuple(one["layers"])) for one in asked["images"]]
        disk.demand(root, int(asked["min_free_bytes"]))
        credential = image_registry.Credential(asked["registry"], given["user"], given["password"])
        retention.bring(root, _of_app(one.ref for one in wanted))
        loaded = image_registry.pull(wanted, credential, report)
        told = image_transfer.standing(root, [one.ref for one in wanted])
        told.loaded = loaded
    if told.loaded and all(told.images.values()):
        _make_room(root, list(told.images), report)
    lacking = [ref for ref, there in told.images.items() if not there]
    report.done(image_transfer.result(told), f"lacking: {', '.join(lacking)}" if lacking else "All images are here.")


def _of_app(refs: Iterable[str]) -> list[str]:
    return [ref for ref in refs if not ref.startswith(f"{recipe.REPOSITORY}/")]


def _make_room(root: Path, refs: list[str], report: Report) -> None:
    """Remove images of deploys that ended before a release named theirs: after others came, which may share layers."""
    try:
        left = retention.drop_unnamed(root, refs)
    except (EngineError, OSError) as error:
        left = [getattr(error, "problem", str(error))]
    for problem in left:
        report.say(f"warning: not removed: {problem}")
