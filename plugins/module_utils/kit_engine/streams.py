"""Programs that move much data, or stay open while others work: each with an end that is sure to come."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Optional

from kit_engine import command, deadline, lock, signals
from kit_engine.beside import Ending
from kit_engine.errors import EngineError
from kit_engine.report import Report

PROGRESS_SECONDS = 5.0
LOOK_SECONDS = 1.0
MIB = 2**20


class Progress:
    """Tells every few seconds how far something is.

    Args:
        report: where; None: nobody is told.
        what: in a word or two, such as ``dumped``.
        total: bytes that it will be; 0 where nobody knows.
        about: whether the total is only guessed.
    """

    def __init__(self, report: Optional[Report], what: str, total: int = 0, *, about: bool = False) -> None:
        self.report, self.what, self.total, self.about = report, what, total, about
        self.told = time.monotonic()

    def at(self, done: int) -> None:
        """Tell that so many bytes are done, if it is time for that."""
        now = time.monotonic()
        if self.report is None or now - self.told < PROGRESS_SECONDS:
            return
        self.told = now
        self.report.say(f"    {self.text(done)}")

    def text(self, done: int) -> str:
        """Write how far it is, such as ``dumped 12 of about 80 MiB (15 %)``."""
        if not self.total:
            return f"{self.what} {done / MIB:.0f} MiB"
        # A guess may be short, and nothing is done before its end.
        percent = min(99, done * 100 // self.total)
        return (
            f"{self.what} {done / MIB:.0f} of {'about ' if self.about else ''}{self.total / MIB:.0f} MiB ({percent} %)"
        )


def moved(
    words: Sequence[str],
    *,
    limit: float,
    progress: Progress,
    out: Optional[IO[bytes]] = None,
    stdin: Optional[IO[bytes]] = None,
    look: Callable[[], None] = lambda: None,
) -> tuple[int, str]:
    """Run a program that moves much data, straight from or into a file: its exit code is its own.

    Args:
        words: program and arguments.
        limit: seconds that it may take.
        progress: told the bytes of the file.
        out: where its standard output goes.
        stdin: what it reads.
        look: called about once a second meanwhile; what it raises ends the program.

    Returns:
        Its exit code, and what it complained of.

    Raises:
        EngineError: it did not end in time.
    """
    end = time.monotonic() + limit
    counted = out or stdin
    with subprocess.Popen(  # noqa: S603 - an argument list of our own, no shell
        list(words), stdin=stdin or subprocess.DEVNULL, stdout=out or subprocess.DEVNULL, stderr=subprocess.PIPE,
        pass_fds=lock.inherited(), start_new_session=signals.deferring(),
    ) as running:  # fmt: skip
        try:
            while True:
                try:
                    said = running.communicate(timeout=LOOK_SECONDS)[1]
                    break
                except subprocess.TimeoutExpired:
                    if time.monotonic() > end:
                        raise late(words, limit) from None
                    if counted:
                        # The program has the same open file as we: its place in it is ours.
                        progress.at(os.lseek(counted.fileno(), 0, os.SEEK_CUR))
                    look()
        except BaseException:
            running.kill()
            raise
    return running.returncode, said.decode("utf-8", "replace")


@contextmanager
def open_to(
    words: Sequence[str],
    limit: float,
    *,
    env: Optional[Mapping[str, str]] = None,
    folder: Optional[Path] = None,
    ending: Optional[Ending] = None,
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]]:
    """Keep a program open, to write to and to read from; it is ended when the block is left early.

    Args:
        words: program and arguments; what it complains of comes with its output.
        limit: seconds after which it is killed.
        env: variables on top of our own.
        folder: where it is started.
        ending: of work beside ours, which kills it.

    Returns:
        The program, its standard input and its standard output.

    Raises:
        EngineError: it was killed for that.
    """
    with subprocess.Popen(  # noqa: S603 - as above
        list(words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, **(env or {})}, cwd=folder,
        pass_fds=lock.inherited(), start_new_session=signals.deferring(),
    ) as running:  # fmt: skip
        assert running.stdin is not None  # noqa: S101 - as was asked for
        assert running.stdout is not None  # noqa: S101 - as above
        if ending:
            ending.adopt(running)
        over = threading.Event()

        def end() -> None:
            # One that has ended in time stays in time, however long the block goes on.
            if running.poll() is None:
                over.set()
                running.kill()

        try:
            with deadline.after(limit, end):
                yield running, running.stdin, running.stdout
        except BaseException as error:
            running.kill()
            if over.is_set() and isinstance(error, Exception):
                raise late(words, limit) from error
            raise
        finally:
            # What could not be written to one that was killed is not tried again: that would hide why.
            with suppress(BrokenPipeError):
                running.stdin.close()


class Growing:
    """Hashes a file while it is written, so that it need not be read again when it is whole.

    Args:
        path: of a file that is only appended to.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._digest, self._done = path, hashlib.sha256(), 0

    def follow(self) -> None:
        """Take what came since."""
        with self.path.open("rb") as file:
            file.seek(self._done)
            while piece := file.read(MIB):
                self._digest.update(piece)
                self._done += len(piece)

    def sha256(self) -> str:
        """Give the SHA-256 of all that is there."""
        self.follow()
        return self._digest.hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder; 0 where there is none."""
    if path.is_dir():
        return sum(one.stat().st_size for one in path.iterdir())
    return path.stat().st_size if path.exists() else 0


def late(words: Sequence[str], limit: float) -> EngineError:
    """Say that a program was stopped, since it took longer than so many seconds."""
    return EngineError(
        "backup",
        f"`{command.readable(words)}` was given {limit:.0f} s (backup_timeout_seconds) and has not ended; it was "
        "stopped.",
        "docker info    (does the engine answer?), or a longer backup_timeout_seconds",
    )
