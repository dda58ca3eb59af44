"""Two programs, the output of one going to the other through us: an end of the first that was no good end is no end.

A program that reads takes the end of its input for the end of what was to come, whatever became of who wrote it. Here
its input is closed only when the first program has ended with 0; else it is killed before.
"""

from __future__ import annotations

import hashlib
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import IO, Optional

from kit_engine import lock, signals, streams

LOOK_SECONDS = 1.0
_PIECE = 1 << 20


@dataclass(frozen=True)
class Program:
    """What is run: words, and variables on top of our own."""

    words: Sequence[str]
    env: Optional[Mapping[str, str]] = None


@dataclass(frozen=True)
class Ended:
    """How both programs ended.

    Attributes:
        wrong: which of them ended badly by itself, 1 or 2, so that the other was ended by us; 0: neither.
        codes: their exit codes; 0 where there is no second one.
        said: what they complained of.
        size: bytes that the first wrote; ``sha256`` of them.
        taken: whether the second read all of that.
        head: the first bytes, as many as were asked for.
    """

    wrong: int
    codes: tuple[int, int]
    said: tuple[str, str]
    size: int
    sha256: str
    taken: bool
    head: bytes


def joined(
    first: Program,
    second: Optional[Program],
    *,
    limit: float,
    progress: streams.Progress,
    look: Callable[[], None] = lambda: None,
    head: int = 0,
) -> Ended:
    """Run two programs, and hand over what the first writes.

    Args:
        first: which writes.
        second: which reads; None: only its size and SHA-256 are wanted.
        limit: seconds that both may take.
        progress: told the bytes that the first wrote.
        look: called about once a second meanwhile; what it raises ends both.
        head: how many of the first bytes are kept.

    Returns:
        How they ended. One that reads may end well before all is written: the rest is hashed alone.

    Raises:
        EngineError: they did not end in time.
    """
    with tempfile.TemporaryFile() as first_said, tempfile.TemporaryFile() as second_said, ExitStack() as going:
        reader = None
        if second:
            reader = _begun(going, second, second_said, stdin=subprocess.PIPE, stdout=second_said)
        with ExitStack() as writing:
            writer = _begun(writing, first, first_said, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            passing = _Passing(writer, reader, time.monotonic() + limit, progress, look, head)
            try:
                passing.run()
            except _LateError:
                raise streams.late((second or first).words, limit) from None
            finally:
                # Before anything is closed: it must not see an end that is none.
                _kill(reader)
        return Ended(
            passing.wrong, (writer.returncode, reader.returncode if reader else 0),
            (_text(first_said), _text(second_said)),
            passing.size, passing.digest.hexdigest(), passing.taken, bytes(passing.head),
        )  # fmt: skip


class _LateError(Exception):
    """The time is over."""


class _Passing:
    """The state of what is handed over."""

    def __init__(
        self, writer: subprocess.Popen[bytes], reader: Optional[subprocess.Popen[bytes]], end: float,
        progress: streams.Progress, look: Callable[[], None], head: int,
    ) -> None:  # fmt: skip
        self.writer, self.reader, self.end, self.progress, self.look = writer, reader, end, progress, look
        self.size, self.digest, self.taken, self.wrong = 0, hashlib.sha256(), True, 0
        self.head, self._wanted, self._looked = bytearray(), head, time.monotonic()

    def run(self) -> None:
        """Hand over, and wait until both have ended."""
        assert self.writer.stdout is not None  # noqa: S101 - as was asked for
        out = self.writer.stdout.fileno()
        into = self.reader.stdin.fileno() if self.reader and self.reader.stdin else -1
        if into >= 0:
            os.set_blocking(into, False)
        while piece := self._read(out):
            self.size += len(piece)
            self.digest.update(piece)
            self.head += piece[: max(0, self._wanted - len(self.head))]
            self.progress.at(self.size)
            if into >= 0 and self.taken:
                self.taken = self._write(into, piece)
                # Who reads no more, and is content, has read enough; else nobody needs the rest.
                if not self.taken and self._ended(self.reader):
                    self.wrong = 2
                    return
        if self._ended(self.writer):
            self.wrong = 1
            return
        if self.reader and self.reader.stdin:
            self.reader.stdin.close()
            self.wrong = 2 if self._ended(self.reader) else 0

    def _read(self, out: int) -> bytes:
        while not select.select([out], [], [], LOOK_SECONDS)[0]:
            self._look()
        self._look()
        return os.read(out, _PIECE)

    def _write(self, into: int, piece: bytes) -> bool:
        """Whether all of it was taken."""
        left = memoryview(piece)
        while left:
            try:
                left = left[os.write(into, left) :]
            except BlockingIOError:
                select.select([], [into], [], LOOK_SECONDS)
            except BrokenPipeError:
                return False
            self._look()
        return True

    def _ended(self, running: Optional[subprocess.Popen[bytes]]) -> int:
        """Wait for a program's own end; gives its exit code."""
        while running is not None:
            try:
                return running.wait(LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                self._look()
        return 0

    def _look(self) -> None:
        now = time.monotonic()
        if now > self.end:
            raise _LateError
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self.look()


def _begun(
    going: ExitStack, program: Program, said: IO[bytes], *, stdin: int | IO[bytes], stdout: int | IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a program that is killed, if need be, and whose pipe is closed after that, when ``going`` is left."""
    running = subprocess.Popen(  # noqa: S603 - an argument list of our own, no shell
        list(program.words), stdin=stdin, stdout=stdout, stderr=said, bufsize=0,
        env={**os.environ, **(program.env or {})}, pass_fds=lock.inherited(), start_new_session=signals.deferring(),
    )  # fmt: skip
    for pipe in (running.stdin, running.stdout):
        if pipe:
            going.callback(_close, pipe)
    going.callback(_kill, running)
    return running


def _kill(running: Optional[subprocess.Popen[bytes]]) -> None:
    if running and running.poll() is None:
        running.kill()
        running.wait()


def _close(pipe: IO[bytes]) -> None:
    with suppress(OSError):
        pipe.close()


def _text(said: IO[bytes]) -> str:
    said.seek(0)
    return said.read().decode("utf-8", "replace")
