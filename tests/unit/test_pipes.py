"""Two programs of which one reads what the other writes: an end that was no good one is never seen as one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from kit_engine import pipes, streams
from kit_engine.errors import EngineError
from kit_engine.pipes import Ended, Program

MANY = 3_000_000


def shell(script: str, *words: str) -> Program:
    """A program."""
    return Program(["sh", "-c", script, "sh", *words])


def joined(first: Program, second: Program | None, limit: float = 60, head: int = 0) -> Ended:
    """Run both."""
    return pipes.joined(first, second, limit=limit, progress=streams.Progress(None, ""), head=head)


@pytest.fixture
def reader(tmp_path: Path) -> tuple[Program, Path]:
    """What reads to the end, and the file that it writes only then."""
    end = tmp_path / "end"
    return shell('cat >"$1.part"; mv "$1.part" "$1"', str(end)), end


def test_all_is_handed_over_and_hashed(reader: tuple[Program, Path]) -> None:
    program, end = reader
    ended = joined(shell(f"head -c {MANY} /dev/urandom"), program, head=10)
    content = end.read_bytes()
    assert (ended.wrong, ended.codes, ended.taken) == (0, (0, 0), True)
    assert (ended.size, ended.sha256) == (MANY, hashlib.sha256(content).hexdigest())
    assert ended.head == content[:10]


@pytest.mark.parametrize("script", [f"head -c {MANY} /dev/zero; exit 7", "printf a; echo why >&2; kill -9 $$"])
def test_who_reads_never_sees_the_end_of_what_failed(reader: tuple[Program, Path], script: str) -> None:
    program, end = reader
    ended = joined(shell(script), program)
    assert ended.wrong == 1
    assert ended.codes[0] in (7, -9)
    assert ended.codes[1] == -9
    assert not end.exists()
    assert ("why" in ended.said[0]) == ("why" in script)


def test_a_reader_that_fails_ends_the_writer() -> None:
    ended = joined(shell("exec cat /dev/zero"), shell("head -c 10 >/dev/null; echo full >&2; exit 5"))
    assert (ended.wrong, ended.codes) == (2, (-9, 5))
    assert ended.said[1] == "full\n"
    # When all was written, it may still fail.
    assert joined(shell("echo a"), shell("cat >/dev/null; exit 5")).wrong == 2


def test_of_a_reader_that_has_read_enough_the_rest_is_hashed_and_told() -> None:
    ended = joined(shell(f"head -c {MANY} /dev/zero"), shell("exec head -c 10"))
    assert (ended.wrong, ended.codes, ended.taken, ended.size) == (0, (0, 0), False, MANY)
    assert ended.sha256 == hashlib.sha256(bytes(MANY)).hexdigest()
    assert joined(shell(f"head -c {MANY} /dev/zero; exit 3"), shell("exec head -c 10")).wrong == 1


def test_without_a_reader_it_is_only_hashed() -> None:
    ended = joined(shell("printf abc"), None)
    assert (ended.wrong, ended.size, ended.sha256) == (0, 3, hashlib.sha256(b"abc").hexdigest())
    assert joined(shell("printf abc; exit 1"), None).wrong == 1


@pytest.mark.parametrize("first", ["sleep 60", "exec cat /dev/zero", "printf a; exec >&-; exec sleep 60"])
def test_what_is_over_time_is_ended_and_who_reads_does_not_see_it(reader: tuple[Program, Path], first: str) -> None:
    program, end = reader
    with pytest.raises(EngineError, match="was given 1 s"):
        joined(shell(first), program if "zero" not in first else shell("exec sleep 60"), limit=1)
    assert not end.exists()


def test_what_is_raised_meanwhile_ends_both(reader: tuple[Program, Path]) -> None:
    def fail() -> None:
        raise KeyError

    program, end = reader
    with pytest.raises(KeyError):
        pipes.joined(shell("exec sleep 60"), program, limit=60, progress=streams.Progress(None, ""), look=fail)
    assert not end.exists()
