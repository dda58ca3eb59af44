"""Work beside other work: whichever fails ends the other, and no program outlives either."""

from __future__ import annotations

import hashlib
import subprocess
import threading
import time
from pathlib import Path

import pytest
from kit_engine import beside, streams
from kit_engine.errors import EngineError

LONG = ["sleep", "12"]


def test_what_the_work_gave_is_there_when_the_block_is_left() -> None:
    going = threading.Event()
    with beside.begun(lambda _: going.wait(10)) as work:
        going.set()
    assert work.result()


def test_a_block_that_fails_ends_the_program_that_the_work_waits_for() -> None:
    programs: list[subprocess.Popen[bytes]] = []
    started = threading.Event()

    def wait(ending: beside.Ending) -> None:
        with streams.open_to(LONG, 60, ending=ending) as (running, _, stdout):
            programs.append(running)
            started.set()
            stdout.read()

    begun = time.monotonic()
    with pytest.raises(KeyError), beside.begun(wait):
        raise KeyError(started.wait(10))
    assert time.monotonic() - begun < 8
    assert programs[0].returncode is not None


def test_a_program_that_is_started_after_the_end_is_killed_at_once() -> None:
    ending = beside.Ending()
    ending.end()
    with pytest.raises(beside.EndedError):
        ending.demand_none()
    with streams.open_to(LONG, 60, ending=ending) as (running, _, _stdout):
        assert running.wait(10) != 0


def test_work_that_fails_ends_the_program_of_the_block_and_says_why() -> None:
    def fail(_: beside.Ending) -> None:
        raise EngineError("backup", "no room", "make room")

    begun = time.monotonic()
    with pytest.raises(EngineError, match="no room"), beside.begun(fail) as work:
        streams.moved(LONG, limit=60, progress=streams.Progress(None, ""), look=work.demand_well)
    assert time.monotonic() - begun < 8


def test_a_file_is_hashed_while_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 3_000_000)
    grows = streams.Growing(path)
    grows.follow()
    with path.open("ab") as file:
        file.write(b"b" * 10)
    assert grows.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()
