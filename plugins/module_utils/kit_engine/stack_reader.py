"""Typed access to what a release's description holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

from kit_engine.errors import EngineError


class Reader:
    """One mapping of the file, whose place stands in every message.

    Args:
        data: the mapping; anything else raises EngineError.
        place: where it stands in the file.
        path: of the file.
    """

    def __init__(self, data: Any, place: str, path: Path) -> None:
        self.place, self.path = place, path
        if not isinstance(data, dict):
            raise self.wrong("", "a mapping")
        self.data = data

    def wrong(self, name: str, wanted: str) -> EngineError:
        """Say what a value must be, and where it stands."""
        place = f"{self.place}{name}".rstrip(".") or "the whole file"
        return EngineError(
            "stack",
            f"{self.path}: {place} must be {wanted}. The file is written by the kit; was it edited?",
            "make deploy    (writes it anew)",
        )

    def given(self, name: str) -> bool:
        """Tell whether there is a value."""
        return self.data.get(name) is not None

    def text(self, name: str) -> str:
        """Give a text that is not empty; raises EngineError where there is none."""
        value = self.data.get(name)
        if not isinstance(value, str) or not value:
            raise self.wrong(name, "a text")
        return value

    def number(self, name: str) -> int:
        """Give a whole number; raises EngineError where there is none, or it is below 0."""
        value = self.data.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.wrong(name, "a whole number, 0 or more")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Give a list of texts; raises EngineError where it is none."""
        value = self.data.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(name, "a list of texts")
        return tuple(value)

    def commands(self, name: str) -> tuple[tuple[str, ...], ...]:
        """Give a list of commands; raises EngineError where it is none."""
        value = self.data.get(name)
        if not isinstance(value, list):
            raise self.wrong(name, "a list of commands")
        wrapped = {f"{name}[{number}]": item for number, item in enumerate(value)}
        inner = Reader(wrapped, self.place, self.path)
        return tuple(inner.texts(key) for key in wrapped)

    def part(self, name: str) -> Reader:
        """Give a mapping inside; raises EngineError where it is none."""
        return Reader(self.data.get(name), f"{self.place}{name}.", self.path)

    def maybe(self, name: str) -> Optional[Reader]:
        """Give a mapping inside, where there is one."""
        return self.part(name) if self.given(name) else None

    def parts(self, name: str) -> tuple[Reader, ...]:
        """Give a list of mappings; raises EngineError where it is none."""
        value = self.data.get(name)
        if not isinstance(value, list):
            raise self.wrong(name, "a list")
        return tuple(Reader(item, f"{self.place}{name}[{number}].", self.path) for number, item in enumerate(value))
