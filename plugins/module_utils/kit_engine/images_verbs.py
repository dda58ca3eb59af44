"""The verbs that bring images; they come before a stack is rendered, and take their request as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from kit_engine import app_image
from kit_engine.base_images import resolve
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
    answer = app_image.ensure(app_image.Request(**json.loads(arguments.request)), sys.stdin.buffer, report)
    report.done(answer, str(answer["image"]["ref"]))
