"""Work in a thread of its own while the main one does other work: whichever fails ends the other."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, Optional, TypeVar

T = TypeVar("T")
# Whoever waits is served first.
_NICE = 10


class EndedError(Exception):
    """The work was told to end, since what goes on beside it failed."""


class Ending:
    """Tells work beside ours to end, and kills the programs that it waits for."""

    def __init__(self) -> None:
        self._lock, self._ended = threading.Lock(), False
        self._programs: list[subprocess.Popen[bytes]] = []

    def adopt(self, running: subprocess.Popen[bytes]) -> None:
        """Have a program killed by the end; one that is started after it, at once."""
        with self._lock:
            self._programs.append(running)
            if self._ended:
                running.kill()

    def end(self) -> None:
        """Tell it."""
        with self._lock:
            self._ended = True
            for running in self._programs:
                running.kill()

    def demand_none(self) -> None:
        """Go on only where nobody told to end.

        Raises:
            EndedError: somebody did.
        """
        if self._ended:
            raise EndedError


class Beside(Generic[T]):
    """Work that has begun.

    Args:
        work: what is done; told what may end it.
    """

    def __init__(self, work: Callable[[Ending], T]) -> None:
        self.ending = Ending()
        self._work, self._found = work, list[T]()
        self._error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        # On Linux a thread has a niceness of its own, which the programs that it starts inherit.
        with suppress(OSError):
            os.nice(_NICE)
        try:
            self._found.append(self._work(self.ending))
        except BaseException as error:
            # It is raised where the result is wanted.
            self._error = error

    def demand_well(self) -> None:
        """Go on only where the work has not failed; raises as it did."""
        if self._error:
            raise self._error

    def join(self) -> None:
        """Wait until it has ended, however."""
        self._thread.join()

    def result(self) -> T:
        """Wait for the work, and give what it gave; raises as it did."""
        self.join()
        self.demand_well()
        return self._found[0]


@contextmanager
def begun(work: Callable[[Ending], T]) -> Iterator[Beside[T]]:
    """Do work beside the block; it has ended when the block is left, and is told to where that fails.

    Args:
        work: what is done; told what may end it.

    Returns:
        The work; without a failure it is done when the block is left, and what failed in it is raised then.
    """
    done = Beside(work)
    try:
        yield done
        done.result()
    except BaseException:
        done.ending.end()
        done.join()
        raise
