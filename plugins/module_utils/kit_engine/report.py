"""What the engine says: steps as they happen on standard error, the result on standard output."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from kit_engine.errors import CheckFailed, EngineError

RED, GREEN, PLAIN = "\033[31m", "\033[32m", "\033[0m"


class Report:
    """The lines of one verb.

    Args:
        verb: what is done.
        as_json: whether the result is one JSON object.
        names: of the steps that there will be.
        stream: where step lines go; default: a file that our caller reads along (KIT_PROGRESS), else standard error.
    """

    def __init__(self, verb: str, as_json: bool, names: Sequence[str] = (), stream: TextIO | None = None) -> None:
        self.verb, self.as_json, self.names, self.stream = verb, as_json, names, stream or _stream()
        self.seconds: dict[str, float] = {}
        self.current = ""
        # What to type where the run is cut off.
        self.again = "repeat the command; it goes on from what is there"
        # Whether a step's line is still to be ended.
        self._open = False
        # Told of each step as it begins, ends or fails.
        self.note: Callable[[str, str], None] = lambda _step, _event: None
        # Takes secrets out of what containers and programs said.
        self.mask: Callable[[str], str] = lambda text: text
        # Keeps what people were told; it gets no colours.
        self.log: Callable[[str], None] = lambda _text: None

    def apart(self, verb: str) -> Report:
        """Give a report for what is done on the way: it tells in the same places, with steps and seconds of its own.

        Args:
            verb: what that is; its steps are noted as ``<verb>: <step>``, and nobody takes them for those of the run.
        """
        own = Report(verb, as_json=False, stream=self.stream)
        own.mask, own.log = self.mask, self.log
        own.note = lambda step, event: self.note(f"{verb}: {step}", event)
        return own

    def say(self, line: str) -> None:
        """Tell how a long step goes."""
        self._tell(("\n" if self._open else "") + f"{self.mask(line)}\n")
        self._open = False

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step: ``[2/5] migrate … 1.4 s``; where something was told on the way, the seconds get a line."""
        title = f"[{self.names.index(name) + 1}/{len(self.names)}] {name} … "
        self.current = name
        self.note(name, "begin")
        started = time.monotonic()
        self._tell(title)
        self._open = True
        try:
            yield
        except BaseException:
            self.note(name, "failed")
            self._tell(("" if self._open else title) + "failed\n", RED)
            self._open = False
            raise
        self.note(name, "end")
        self.seconds[name] = round(time.monotonic() - started, 2)
        self._tell(("" if self._open else title) + f"{self.seconds[name]:.1f} s\n")
        self._open, self.current = False, ""

    def done(self, result: Mapping[str, Any], text: str) -> None:
        """Print the result: as JSON, or as text for people."""
        if self.as_json:
            print(json.dumps({"ok": True, "verb": self.verb, **result}))
        elif text:
            print(text)

    def failed(self, error: EngineError) -> None:
        """Print a failure: for people on standard error, and as JSON on standard output where that is wanted."""
        where = f"{self.verb}: {self.current}: " if self.current else f"{self.verb}: "
        if self.as_json:
            # First: whoever reads along may be gone, and takes the stream with it.
            print(json.dumps(failure(self.verb, self.current, error, self.mask)))
        self._tell(where, RED)
        self._tell(f"{self.mask(error.problem)}\nNext: {error.remedy}\n")

    def _tell(self, text: str, code: str = "") -> None:
        self.log(text)
        self.stream.write(colour(text, code, self.stream) if code else text)
        self.stream.flush()


def _stream() -> TextIO:
    path = os.environ.get("KIT_PROGRESS")
    # Not made here: as root, a kernel may refuse to open for creation what another user put into /tmp.
    return Path(path).open("r+", encoding="utf-8", errors="backslashreplace") if path else sys.stderr


def failure(verb: str, step: str, error: EngineError, mask: Callable[[str], str]) -> dict[str, Any]:
    """Describe an error for programs."""
    problems = error.problems if isinstance(error, CheckFailed) else (error,)
    return {
        "ok": False,
        "verb": verb,
        "step": step,
        "changed": False,
        "code": error.code,
        "problem": mask(error.problem),
        "next": error.remedy,
        "problems": [{"code": one.code, "problem": mask(one.problem), "next": one.remedy} for one in problems],
    }


def colour(text: str, code: str, stream: TextIO) -> str:
    """Colour a text where it is read on a terminal that can show it."""
    wanted = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"{code}{text}{PLAIN}" if wanted else text


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Write rows of equal length as lines, with one width for each column."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def duration(seconds: float) -> str:
    """Write a time span in its one biggest unit: ``40 s``, ``12 min``, ``5 h``, ``9 days``."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (seconds >= size and unit != "days"):
            return f"{int(seconds // size)} {unit}"
    return f"{int(max(0, seconds))} s"
