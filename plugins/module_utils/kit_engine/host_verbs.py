"""The verb that a deploy from a control node ends with: take a release and bring it up."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from kit_engine import bundle, release, releases, signals, verbs
from kit_engine import stack as stacks
from kit_engine.docker import Docker, image_id
from kit_engine.errors import EngineError
from kit_engine.report import Report


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
    # A release that is current without a record that says so would be neither good nor failed.
    with signals.deferred():
        releases.switch(root, given)
        record.state, record.finished = "good", releases.now()
        record.seconds, record.migrations, record.reason = dict(report.seconds), changes.migrations, ""
        releases.write(root, record)
    text = f"{docker.stack.name} ({docker.stack.env}) is ready: {verbs.site_url(docker)}, release {given}"
    result = {**changes.as_result(), "release": given, "message": text, "seconds": report.seconds}
    report.done({**result, "changed": True}, text)
