"""Verbs that a session runs on a host: real processes, cut off and killed as they are in life."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, Any, cast

import pytest
from support.sessions import SESSION, Programs, is_free, leave, line, order, take_lock, told, until


@pytest.fixture
def session(root: Path, programs: Programs) -> subprocess.Popen[str]:
    """One that is there, without the lock."""
    asked = json.dumps({"who": "ada@laptop"})
    return programs.start("-c", SESSION, "--root", str(root), "session", "--json", "--request", asked)


def call(session: subprocess.Popen[str], root: Path, token: str = "", content: str = "", **asked: Any) -> Path:
    """Ask for the verb; gives the file that it notes in."""
    note = root / "note"
    words = ["--root", str(root), "test", "--json", "--request", json.dumps({"note": str(note), **asked})]
    words += ["--session", token] if token else []
    order(session, call=words, size=len(content.encode()))
    orders = cast("IO[str]", session.stdin)
    orders.write(content)
    orders.flush()
    return note


def ended(session: subprocess.Popen[str]) -> tuple[str, dict[str, Any]]:
    """Wait for a verb's end: what it told on the way, and how it ended."""
    progress = ""
    while True:
        answer = told(session)
        if "ended" in answer:
            return progress, answer
        progress += answer["progress"]


def locked(session: subprocess.Popen[str]) -> str:
    """Have it take the lock; gives the token."""
    take_lock(session)
    return str(told(session)["token"])


def test_verbs_run_one_after_the_other_and_tell_while_they_run(root: Path, session: subprocess.Popen[str]) -> None:
    orders = cast("IO[str]", session.stdin)
    # What sudo left, and heartbeats.
    orders.write("pass word\n....")
    assert told(session) == {"ready": True}
    content = "\0\1x" * 1_000_000
    call(session, root, content=content, seconds=1.0)
    call(session, root)
    heard: list[dict[str, Any]] = []
    while not heard or "ended" not in heard[-1]:
        heard.append(told(session))
    answer = heard.pop()
    # Whoever waits hears what it told before it slept, that it is still at it, and the rest.
    assert "".join(one["progress"] for one in heard) == "begun\nhalf…\n"
    assert len(heard) > 1
    assert (answer["ended"], answer["err"]) == (0, "")
    assert json.loads(answer["out"])["size"] == 3_000_000
    second, other = ended(session)
    assert (second, json.loads(other["out"])["size"]) == ("begun\nhalf…\n", 0)
    assert json.loads(other["out"])["pid"] != json.loads(answer["out"])["pid"]
    assert is_free(root)


def test_a_verb_that_fails_or_is_killed_leaves_the_session(root: Path, session: subprocess.Popen[str]) -> None:
    assert told(session) == {"ready": True}
    call(session, root, fails=True)
    said, answer = ended(session)
    assert (answer["ended"], json.loads(answer["out"])["code"]) == (1, "broken")
    assert said == "test: It is broken.\nNext: mend it\n"
    call(session, root, dies=True)
    assert ended(session)[1]["ended"] == -signal.SIGKILL
    call(session, root)
    assert ended(session)[1]["ended"] == 0


def test_a_verb_is_a_step_of_the_session(root: Path, session: subprocess.Popen[str]) -> None:
    token = locked(session)
    call(session, root, token)
    assert ended(session)[1]["ended"] == 0
    call(session, root, "x" * len(token))
    assert json.loads(ended(session)[1]["out"])["code"] == "lock_lost"
    assert not is_free(root)


def test_a_lost_node_ends_the_verb_and_frees_the_host(root: Path, session: subprocess.Popen[str]) -> None:
    note = call(session, root, locked(session), seconds=60)
    until(note.exists)
    leave(session)
    until(lambda: note.read_text() == "interrupted")
    session.wait(10)
    assert is_free(root)


def test_what_is_unsafe_to_end_is_finished_though_nobody_hears(root: Path, session: subprocess.Popen[str]) -> None:
    note = call(session, root, locked(session), deferred=1.5, seconds=60)
    until(note.exists)
    leave(session)
    cast("IO[str]", session.stdout).close()
    time.sleep(0.5)
    assert not is_free(root)
    until(lambda: note.read_text() == "switched")
    session.wait(10)
    assert is_free(root)


def test_a_verb_goes_on_though_the_session_is_killed(root: Path, session: subprocess.Popen[str]) -> None:
    note = call(session, root, locked(session), seconds=1.5)
    until(note.exists)
    session.kill()
    session.wait()
    assert not is_free(root)
    # It tells to its end, where nobody reads any more.
    until(lambda: note.read_text() == "done")
    until(lambda: is_free(root))


def test_no_process_stays(root: Path, session: subprocess.Popen[str]) -> None:
    note = call(session, root, locked(session))
    ended(session)
    assert note.read_text() == "done"
    children = Path(f"/proc/{session.pid}/task/{session.pid}/children").read_text().split()
    assert children
    cast("IO[str]", session.stdin).write("\0")
    cast("IO[str]", session.stdin).flush()
    assert session.wait(10) == 0
    assert line(session) == ""
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
