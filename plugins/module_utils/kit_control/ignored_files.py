"""What of a folder enters a build context, by the rules of .dockerignore.

Docker's SDK has the same (tests compare the two); loading it takes as long as all the rest that a deploy loads.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# Never left out, whatever the patterns say.
_ALWAYS = ("!Dockerfile", "!.dockerignore")


@dataclass(frozen=True)
class _Pattern:
    parts: tuple[str, ...]
    brings_back: bool

    @cached_property
    def expression(self) -> re.Pattern[str]:
        return re.compile(_expression("/".join(self.parts)), re.DOTALL)

    def fits(self, parts: tuple[str, ...]) -> bool:
        """Whether it names this path, or a folder above it."""
        if self.expression.fullmatch("/".join(parts)):
            return True
        above = parts[:-1]
        return bool(
            above
            and len(self.parts) <= len(above)
            and self.expression.fullmatch("/".join(above[: len(self.parts)])) is not None
        )


def kept(folder: Path, patterns: Iterable[str]) -> list[str]:
    """List what is left of a folder.

    Args:
        folder: whose content is meant; links in it are not followed.
        patterns: lines of .dockerignore; the last one that fits a path decides, and one with ``!`` brings it back.

    Returns:
        Paths of files, links and folders below it.
    """
    read = [_read(line) for line in (*patterns, *_ALWAYS)]
    return list(_walk(folder, (), [pattern for pattern in read if pattern.parts]))


def _read(line: str) -> _Pattern:
    parts: list[str] = []
    for part in line.removeprefix("!").strip().split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return _Pattern(tuple(parts), line.startswith("!"))


def _walk(folder: Path, above: tuple[str, ...], patterns: list[_Pattern]) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            parts = (*above, entry.name)
            name = "/".join(parts)
            out = False
            for pattern in patterns:
                if pattern.fits(parts):
                    out = not pattern.brings_back
            if not out:
                yield name
            if not entry.is_dir(follow_symlinks=False):
                continue
            # Inside a folder that is left out, only what a later pattern names by that folder can come back.
            if not out or any(one.brings_back and "/".join(one.parts).startswith(name) for one in patterns):
                yield from _walk(folder / entry.name, parts, patterns)


def _expression(pattern: str) -> str:
    """Write a pattern as a regular expression: ``*`` and ``?`` stay within a folder, ``**`` does not."""
    found, at = "", 0
    while at < len(pattern):
        sign, at = pattern[at], at + 1
        if sign == "*" and pattern[at : at + 1] == "*":
            at += 1
            at += pattern[at : at + 1] == "/"
            found += ".*" if at >= len(pattern) else "(.*/)?"
        elif sign == "*":
            found += "[^/]*"
        elif sign == "?":
            found += "[^/]"
        elif sign == "[":
            end = pattern.find("]", at + (pattern[at : at + 1] == "!") + 1)
            if end < 0:
                found += re.escape(sign)
                continue
            inside = pattern[at:end].replace("\\", "\\\\")
            found += "[" + ("^" + inside[1:] if inside.startswith("!") else inside) + "]"
            at = end + 1
        else:
            found += re.escape(sign)
    return found
