"""Hooks of the control node, and what is shown of any hook's words."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
import yaml
from kit_control import hooks, manifest
from kit_control.errors import KitError
from kit_engine.masking import MASK, masked
from support.kit import FIXTURE, ROOT

RECORD = {"id": "20260101T000000Z-0123456", "env": "prod", "state": "live"}
TOKEN = "canary-token-of-the-chat"  # noqa: S105 - looked for in what is printed


def project(tmp_path: Path, **moments: list[dict[str, Any]]) -> manifest.Manifest:
    """A manifest with hooks."""
    told = {**yaml.safe_load(FIXTURE.read_text()), "source": {"path": str(FIXTURE.parent)}, "hooks": moments}
    path = tmp_path / "deploy.yml"
    path.write_text(yaml.safe_dump(told))
    return manifest.load(path)


def python(script: str, **hook: Any) -> dict[str, Any]:
    """A hook of the control node that runs a Python script."""
    return {"run": "control", "command": [sys.executable, "-c", script], **hook}


def warnings(given: manifest.Manifest, root: Path, record: Mapping[str, Any] = RECORD) -> list[str]:
    """Run the hooks after the switch."""
    return hooks.warnings(given, "after_switch", root, record, lambda: [TOKEN])


def test_a_hook_gets_the_record_and_knows_environment_and_release(tmp_path: Path) -> None:
    script = (
        "import json, os, sys; json.dump({**json.load(sys.stdin), 'cwd': os.getcwd(), 'env': os.environ['KIT_ENV'],"
        "'release': os.environ['KIT_RELEASE']}, open('told', 'w'))"
    )
    in_image = {"run": "image", "command": ["no-such-program"]}
    assert warnings(project(tmp_path, after_switch=[in_image, python(script)]), tmp_path) == []
    told = json.loads((tmp_path / "told").read_text())
    assert told == {**RECORD, "hook": "after_switch", "cwd": str(tmp_path), "release": RECORD["id"]}


def test_one_that_fails_before_ends_the_deploy_and_the_rest_is_not_run(tmp_path: Path) -> None:
    bad = python(f"print('first'); print('with {TOKEN}'); raise SystemExit(7)")
    given = project(tmp_path, before_migrate=[python("pass"), bad, python("open('ran', 'w')")])
    with pytest.raises(KitError) as caught:
        hooks.demand(given, "before_migrate", tmp_path, RECORD, lambda: [TOKEN])
    assert caught.value.code == "hook"
    for words in ("before_migrate[1]", "ended with 7", f"with {MASK}", "make deploy ENV=prod"):
        assert words in str(caught.value)
    assert TOKEN not in str(caught.value).replace(" ".join(bad["command"]), "").partition("ended with")[2]
    assert not (tmp_path / "ran").exists()


def test_one_that_fails_after_is_told_and_the_rest_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_WEBHOOK", "https://chat.invalid/canary")
    bad = python("import os; print(os.environ['CHAT_WEBHOOK']); raise SystemExit(1)")
    missing = {"run": "control", "command": ["/no/such/program"]}
    given = project(tmp_path, after_switch=[bad, missing, python("open('ran', 'w')")])
    first, second = warnings(given, tmp_path)
    assert "ended with 1" in first
    assert "chat.invalid" not in first
    assert "cannot be started: No such file" in second
    assert (tmp_path / "ran").exists()


def test_one_that_hangs_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    script = "import subprocess; subprocess.run(['sh', '-c', 'sleep 3; touch ran'])"
    started = time.monotonic()
    (told,) = warnings(project(tmp_path, after_switch=[python(script, timeout_seconds=1)]), tmp_path)
    assert "was given 1 s" in told
    assert time.monotonic() - started < 3
    time.sleep(3)
    assert not (tmp_path / "ran").exists()


def test_a_failure_is_told_once_for_all_hosts(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: hooks.is_first(tmp_path / "prod", "17 first"), range(8))) == 1
    assert hooks.is_first(tmp_path / "prod", "18 second")


def test_of_a_list_each_part_is_masked_and_of_short_words_none() -> None:
    text = "one first-secret two second-secret three abc"
    assert masked(text, ["first-secret,second-secret\n", "abc"]) == f"one {MASK} two {MASK} three abc"


def examples() -> list[dict[str, list[dict[str, Any]]]]:
    """The hooks that the docs show."""
    text = (ROOT / "docs/OPERATIONS.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    return [block["hooks"] for block in blocks if "hooks" in block]


class Chat(BaseHTTPRequestHandler):
    """Keeps the messages that it gets."""

    messages: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        """Take a message."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.messages.append(json.loads(body)["text"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


def test_the_chat_of_the_docs_gets_its_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = project(tmp_path, **examples()[0])
    record = {**RECORD, "who": "ada@laptop", "reason": 'no "such" file'}
    with HTTPServer(("127.0.0.1", 0), Chat) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("CHAT_WEBHOOK", f"http://127.0.0.1:{server.server_port}/hook")
        for moment in ("after_switch", "after_failure"):
            assert hooks.warnings(given, moment, tmp_path, record, list) == []
        server.shutdown()
    release = f"prod: release {RECORD['id']}"
    assert Chat.messages == [f"{release} by ada@laptop serves", f'{release} failed: no "such" file']


def test_the_releases_of_sentry_are_begun_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = project(tmp_path, **examples()[1])
    program = tmp_path / "sentry-cli"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/typed\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    hooks.demand(given, "before_migrate", tmp_path, RECORD, list)
    assert hooks.warnings(given, "after_switch", tmp_path, RECORD, list) == []
    release = RECORD["id"]
    assert (tmp_path / "typed").read_text().splitlines() == [
        f"releases new {release}",
        f"releases finalize {release}",
        f"releases deploys {release} new -e prod",
    ]
