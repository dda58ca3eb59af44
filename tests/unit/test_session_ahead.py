"""A run finds the sessions that the one before it had, begun before it asks; and only where they are its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import pytest
from kit_control import host_session, lock_keeper
from kit_engine import signals
from support.engine_stack import PACKAGES
from support.sessions import SESSION, until

# As ansible-playbook and its tasks: begins, asks for a session, and notes how it reached the host.
RUN = """
import json, sys
from pathlib import Path
from kit_control import memo, session_ahead
given = json.loads(sys.argv[1])
memo.FOLDER = Path(given["memo"])
session_ahead.begin(given["arguments"])
keeper = session_ahead.begun(given["command"])
told = json.loads(keeper.stdout.readline()) if keeper else {}
print(json.dumps(told), flush=True)
if sys.stdin.readline() == "take\\n":
    keeper.stdin.write(b"keep\\n")
    keeper.stdin.flush()
    print("taken", flush=True)
    sys.stdin.readline()
session_ahead.keep("web1", given["command"])
"""
# A session that takes its node for lost sooner than any other, and says who it is.
COMMAND = f"""
import os, sys
from pathlib import Path
from kit_engine import session
session.SILENCE_SECONDS = 4.0
Path(sys.argv.pop(1)).write_text(str(os.getpid()))
{SESSION}
"""
ARGUMENTS = ("-i", "inventories/prod", "-e", "web_port=1", "playbooks/deploy.yml")
Begin = Callable[..., "tuple[subprocess.Popen[str], dict[str, Any]]"]


@pytest.fixture
def command(root: Path) -> list[str]:
    request = ["session", "--json", "--request", '{"who": "a@b"}']
    return [sys.executable, "-c", COMMAND, str(root / "pid"), "--root", str(root), *request]


@pytest.fixture
def begin(root: Path, command: list[str]) -> Iterator[Begin]:
    """Starts a run; gives it, and what it was told of a session that is there already."""
    started: list[subprocess.Popen[str]] = []
    (root / "inventories/prod").mkdir(parents=True)
    (root / "inventories/prod/hosts.yml").write_text("app: {hosts: {web1: }}\n")

    def run(
        arguments: tuple[str, ...] = ARGUMENTS, words: list[str] = command, **env: str
    ) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        given = {"memo": str(root / "memo"), "arguments": arguments, "command": words}
        program = subprocess.Popen(
            [sys.executable, "-c", RUN, json.dumps(given)],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(PACKAGES), **env},
        )
        started.append(program)
        return program, json.loads(cast("IO[str]", program.stdout).readline())

    yield run
    for program in started:
        program.kill()
        program.communicate()


def end(program: subprocess.Popen[str]) -> None:
    """Have a run go to its end."""
    program.communicate("\n", timeout=20)
    assert program.returncode == 0


def test_the_second_run_has_its_session_before_it_asks(begin: Begin, root: Path) -> None:
    first, told = begin()
    assert told == {}
    end(first)
    assert not (root / "pid").exists()
    second, told = begin()
    assert told["ready"] is True
    end(second)
    # Whoever began a session and needed none leaves none.
    until(lambda: not signals.runs(int((root / "pid").read_text())))
    assert not Path(told["keeper"]).exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("-i", "inventories/prod", "--check", "playbooks/deploy.yml"),
        ("-i", "inventories/prod", "-l", "web2", "playbooks/deploy.yml"),
        ("-i", "inventories/prod", "playbooks/plan.yml"),
        ("-i", "inventories/prod", "-i", "more.yml", "playbooks/deploy.yml"),
    ],
)
def test_a_run_that_may_not_want_it_begins_none(begin: Begin, root: Path, arguments: tuple[str, ...]) -> None:
    end(begin()[0])
    assert begin(arguments)[1] == {}
    assert not (root / "pid").exists()


def test_other_hosts_or_settings_begin_none(begin: Begin, root: Path) -> None:
    end(begin()[0])
    assert begin(ANSIBLE_REMOTE_USER="ada")[1] == {}
    (root / "inventories/prod/hosts.yml").write_text("app: {hosts: {web2: }}\n")
    assert begin()[1] == {}
    assert not (root / "pid").exists()


def test_one_that_was_begun_by_other_words_is_not_taken_up(begin: Begin, command: list[str]) -> None:
    end(begin()[0])
    assert begin(words=[*command, "--more"])[1] == {}


def test_what_is_noted_is_damaged(begin: Begin, root: Path) -> None:
    end(begin()[0])
    (noted,) = (root / "memo").iterdir()
    for content in (b"", b"[", b'{"a": 1}', b'["/no/such/program"]', b"7"):
        noted.write_bytes(content)
        program, told = begin()
        assert told == {}
        end(program)


def test_one_that_is_not_asked_for_a_while_stays(begin: Begin, root: Path) -> None:
    end(begin()[0])
    program, told = begin()
    time.sleep(6)
    stdin, stdout = cast("IO[str]", program.stdin), cast("IO[str]", program.stdout)
    stdin.write("take\n")
    stdin.flush()
    assert stdout.readline() == "taken\n"
    request = json.dumps({"note": str(root / "note")})
    words = ["--root", str(root), "test", "--json", "--request", request]
    assert host_session.run(told["keeper"], words, b"", lambda _: None)["rc"] == 0
    assert lock_keeper.HEARTBEAT_SECONDS < 4


def test_a_killed_run_leaves_none(begin: Begin, root: Path) -> None:
    end(begin()[0])
    program, _ = begin()
    program.kill()
    until(lambda: not signals.runs(int((root / "pid").read_text())))
