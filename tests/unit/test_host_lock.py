"""Sessions that were begun ahead, and what became of them until a task wanted one."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import pytest
from kit_control import host_lock
from kit_control.errors import KitError
from support.actions import action

Begin = Callable[[str], "subprocess.Popen[bytes]"]
READY = json.dumps({"ready": True, "keeper": "/run/none"})
ENDED = json.dumps({"ended": 255, "said": "Connection refused"})


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Starts a shell in a keeper's place."""
    started: list[subprocess.Popen[bytes]] = []

    def run(script: str) -> subprocess.Popen[bytes]:
        program = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(program)
        return program

    yield run
    for program in started:
        program.kill()
        program.wait()


def test_one_that_is_ready_is_kept(begin: Begin) -> None:
    told = host_lock._taken_up(begin(f"echo '{READY}'; read word; test $word = keep"))
    assert told == json.loads(READY)


def test_one_that_was_ready_and_ended_since_is_none(begin: Begin) -> None:
    program = begin(f"echo '{READY}'")
    program.wait(20)
    assert host_lock._taken_up(program) == {}


def test_one_that_another_task_has_taken_up_is_none(begin: Begin) -> None:
    program = begin(f"echo '{READY}'; read word; exec >/dev/null; sleep 20")
    cast("IO[bytes]", program.stdout).readline()
    cast("IO[bytes]", program.stdin).write(b"keep\n")
    cast("IO[bytes]", program.stdin).flush()
    assert host_lock._taken_up(program) == {}


@pytest.mark.parametrize("waited", [False, True])
def test_an_end_counts_where_it_was_waited_for(begin: Begin, waited: bool) -> None:
    program = begin(f"{'sleep 1; ' if waited else ''}echo '{ENDED}'")
    if not waited:
        time.sleep(1)
    assert host_lock._taken_up(program) == (json.loads(ENDED) if waited else {})


def test_a_wait_that_is_no_number_is_refused() -> None:
    told = {"command": "make deploy ENV=prod", "wait": "600", "ahead": False}
    assert host_lock.ordered(told) == host_lock.Order("make deploy ENV=prod", 600.0, ahead=False)
    with pytest.raises(KitError, match="'10m' is no number of seconds"):
        host_lock.ordered({**told, "wait": "10m"})


def lock_of(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str, *, bare: bool) -> dict[str, Any]:
    """What the task tells whose host cannot be locked."""

    def take(*_: object) -> dict[str, Any]:
        raise KitError(code, "no lock", "")

    monkeypatch.setattr(host_lock, "take", take)
    order = {"command": "make provision", "wait": 0, "ahead": False}
    task = {"root": "/srv/site", "python": "python3", "order": order, "bare": bare}
    return action("kit_lock", folder, task).work()


@pytest.mark.parametrize("code", ["python", "sudo", "unreachable"])
def test_a_bare_host_is_left_to_what_judges_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    assert lock_of(tmp_path, monkeypatch, code, bare=True) == {"changed": False}


@pytest.mark.parametrize("code", ["python", "sudo", "unreachable"])
def test_any_other_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    with pytest.raises(KitError) as refused:
        lock_of(tmp_path, monkeypatch, code, bare=False)
    assert refused.value.code == code


def test_one_that_somebody_else_holds_is_refused_though_it_may_be_bare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"failed": True, "code": "locked", "msg": "Another command is at work"}
    monkeypatch.setattr(host_lock, "take", lambda *_: told)
    order = {"command": "make provision", "wait": 0, "ahead": False}
    task = {"root": "/srv/site", "python": "python3", "order": order, "bare": True}
    assert action("kit_lock", tmp_path, task).work() == told
