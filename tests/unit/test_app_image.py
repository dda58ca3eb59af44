"""What a machine keeps that makes the app's image."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import pytest
from kit_engine import app_image, command, docker_socket, images_verbs, releases
from kit_engine.report import Report

REQUEST = app_image.Request("site:release-0123456789ab", "release", {}, {})
PRUNE = ["docker", "buildx", "prune", "--builder=default", "--force", "--keep-storage", app_image.KEPT_CACHE]


@pytest.mark.parametrize(
    ("built", "check_only", "pruned"), [(True, False, [PRUNE]), (False, False, []), (True, True, [])]
)
def test_a_host_that_builds_bounds_its_cache_after_a_build(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    built: bool,
    check_only: bool,
    pruned: list[list[str]],
) -> None:
    (tmp_path / releases.FOLDER).mkdir()
    ran: list[list[str]] = []

    def run(words: list[str], **_more: object) -> command.Done:
        ran.append(words)
        return command.Done(1, "", "no space left on device")

    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr(docker_socket, "builder", lambda: "default")
    monkeypatch.setattr(app_image, "ensure", lambda *_: {"changed": built, "image": {"ref": REQUEST.ref}})
    request = json.dumps({**asdict(REQUEST), "check_only": check_only})
    report = Report("app-image", as_json=True)
    images_verbs.app_image_verb(Namespace(root=tmp_path, request=request, report=report))
    assert ran == pruned
    # Told, and no reason for a deploy to fail.
    assert ("no space left" in capsys.readouterr().err) == bool(pruned)
