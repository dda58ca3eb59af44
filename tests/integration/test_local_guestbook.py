"""`make deploy` for local with the second project: from its manifest alone, and after deploys that were killed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.kit import FIXTURE, playbook
from support.local_stack import LocalStack, make

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture
def guestbook(tmp_path: Path) -> Iterator[LocalStack]:
    """The second project, not deployed."""
    stack = make(FIXTURE, tmp_path)
    try:
        yield stack
    finally:
        stack.remove()


def test_a_deploy_that_is_killed_is_finished_by_the_next(guestbook: LocalStack) -> None:
    for seconds in (4, 7, 9, 11):
        guestbook.deploy_and_kill(seconds)

    run = guestbook.deploy()

    assert run.code == 0, run.output
    assert guestbook.get("/up").startswith("migrations: ")
    secrets = (guestbook.root / "secrets.json").read_text()
    guestbook.deploy_and_kill(6)
    assert guestbook.deploy().code == 0
    assert (guestbook.root / "secrets.json").read_text() == secrets


def test_second_project_is_deployed_from_its_manifest_alone(guestbook: LocalStack) -> None:
    run = guestbook.deploy()

    assert run.code == 0, run.output
    assert guestbook.get("/up").startswith("migrations: ")
    assert "smoke gate: localhost: " in run.output
    again = guestbook.deploy().output
    assert re.findall(r"changed=(\d+)", again) == ["0"]
    assert "smoke gate" not in again

    given = {"project_manifest": str(guestbook.source / "deploy.yml")}
    assert playbook("smoke", "local", given, scratch=guestbook.scratch).code == 0
    found = json.loads((guestbook.root / "smoke.json").read_text())["hosts"]["localhost"]
    assert ("request", "up", "passed") in {(one["check"], one["subject"], one["outcome"]) for one in found["checks"]}
