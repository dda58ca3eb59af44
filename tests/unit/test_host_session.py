"""A keeper beside Ansible and the tasks that ask it, with a session on this machine: tasks end whenever they like."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import pytest
from kit_control import host_session, lock_keeper
from support.engine_stack import PACKAGES
from support.sessions import SESSION, until


@pytest.fixture
def keeper(root: Path) -> Iterator[str]:
    """The socket of one that keeps a session for this process."""
    command = [sys.executable, "-c", SESSION, "--root", str(root), "session", "--json", "--request", '{"who": "a@b"}']
    program = subprocess.Popen(
        [sys.executable, "-m", "kit_control.lock_keeper"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(PACKAGES)},
    )
    with cast("IO[bytes]", program.stdin) as given, cast("IO[bytes]", program.stdout) as told:
        given.write(json.dumps({"command": command, "password": "", "run": os.getpid()}).encode() + b"\n")
        given.flush()
        ready = json.loads(told.readline())
        given.write(f"{lock_keeper.KEEP}\n".encode())
        given.flush()
        yield str(ready["keeper"])
    with host_session.asked(str(ready["keeper"]), {"free": True}) as answers:
        assert next(answers) == {"freed": True}
    assert program.wait(10) == 0


def words(root: Path, **asked: Any) -> list[str]:
    request = json.dumps({"note": str(root / "note"), **asked})
    return ["--root", str(root), "test", "--json", "--request", request]


def run(keeper: str, root: Path, content: bytes = b"") -> dict[str, Any]:
    done = host_session.run(keeper, words(root), content, lambda _: None)
    assert done["rc"] == 0, done
    told: dict[str, Any] = json.loads(done["stdout"])
    return told


def test_an_order_that_is_cut_off_is_none(keeper: str, root: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as task:
        task.connect(keeper)
        task.sendall(json.dumps({"call": words(root), "id": "1", "size": 1000}).encode() + b"\nonly a part")
    assert run(keeper, root, b"whole")["size"] == 5
    assert run(keeper, root)["size"] == 0


def test_what_a_task_left_behind_is_no_answer_to_the_next(keeper: str, root: Path) -> None:
    with host_session.asked(keeper, {"call": words(root, seconds=1.5)}, b"of the first"):
        until((root / "note").exists)
    # The first verb still runs: its end comes before that of ours.
    assert run(keeper, root, b"second")["size"] == len(b"second")
