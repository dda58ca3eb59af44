"""What differs between two bundles, told without any secret: those are compared, and never shown."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kit_engine.synced_source import FOLDER as SOURCE

SECRETS = "secrets"
MASK = "***"
# What a bundle consists of; a local deploy root holds more.
PATTERNS = ("docker-compose.*.yml", ".env.*", "stack.json", f"{SECRETS}/*", "nginx/**/*", f"{SOURCE}/**/*")
# A file with more differing lines than these is named, and its beginning shown.
_SHOWN_LINES = 60
# Shorter ones, such as `db`, are words that stand everywhere.
_SHORTEST_MASKED = 4
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)")
# An earlier manifest may have called these secret, whatever today's says.
_LOOKS_SECRET = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN|PRIVATE|(^|_)(KEY|DSN)($|_)")


@dataclass(frozen=True)
class Difference:
    """A file that differs.

    Attributes:
        change: ``added``, ``removed`` or ``changed``.
        lines: what differs in it, as ``-old`` and ``+new``; nothing for a secret or the project's source.
    """

    path: str
    change: str
    lines: tuple[str, ...] = ()


def files_of(folder: Path) -> dict[str, bytes]:
    """Read the files of a bundle by path; nothing where there is none."""
    paths = (path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def differences(old: Mapping[str, bytes], new: Mapping[str, bytes], secret_names: Iterable[str]) -> list[Difference]:
    """Compare two bundles.

    Args:
        old: content by path, as it serves.
        new: as it would be deployed.
        secret_names: variables whose values are never shown.

    Returns:
        The files that differ, sorted by path.
    """
    names = set(secret_names)
    masked = _secret_values(old, names) | _secret_values(new, names)
    found = []
    for path in sorted({*old, *new}):
        before, after = old.get(path), new.get(path)
        if before == after:
            continue
        change = "added" if before is None else "removed" if after is None else "changed"
        folder = path.split("/")[0]
        # On a first deploy everything is new: the names say enough.
        lines: list[str] = []
        if old and folder not in (SECRETS, SOURCE):
            was, is_now = ((content or b"").decode(errors="replace").splitlines() for content in (before, after))
            told = _variables(was, is_now, names) if folder.startswith(".env.") else _lines(was, is_now)
            lines = [_masked(line, masked) for line in told]
        found.append(Difference(path, change, tuple(_cut(lines))))
    return found


def _variables(old: list[str], new: list[str], secret_names: set[str]) -> list[str]:
    """Compare two .env files variable by variable; their remarks are documentation."""
    before, after = _assignments(old), _assignments(new)
    lines = []
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) == after.get(name):
            continue
        if name in secret_names or _LOOKS_SECRET.search(name):
            change = "added" if name not in before else "removed" if name not in after else "changed"
            lines.append(f" {name}: {change} (secret)")
            continue
        lines += [f"-{name}={before[name]}"] if name in before else []
        lines += [f"+{name}={after[name]}"] if name in after else []
    return lines


def _lines(old: list[str], new: list[str]) -> list[str]:
    told = difflib.unified_diff(old, new, n=1, lineterm="")
    return [line for line in told if not line.startswith(("---", "+++"))]


def _assignments(lines: list[str]) -> dict[str, str]:
    found = (_ASSIGNMENT.fullmatch(line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def _secret_values(files: Mapping[str, bytes], names: set[str]) -> set[str]:
    """Every secret of a bundle as it may stand inside another value, such as an address with a password."""
    values = set()
    for path, content in files.items():
        text = content.decode(errors="replace")
        if path.startswith(f"{SECRETS}/"):
            values |= {text, text.strip()}
        elif path.startswith(".env."):
            for name, value in _assignments(text.splitlines()).items():
                if name in names:
                    inner = value[1:-1] if value[:1] == '"' else value
                    values |= {inner, re.sub(r"\\(.)", r"\1", inner)}
    return {value for value in values if len(value) >= _SHORTEST_MASKED}


def _masked(line: str, values: set[str]) -> str:
    # The longest first: one secret may be part of another.
    for value in sorted(values, key=len, reverse=True):
        line = line.replace(value, MASK)
    return line


def _cut(lines: list[str]) -> list[str]:
    left = len(lines) - _SHOWN_LINES
    return lines if left <= 0 else [*lines[:_SHOWN_LINES], f" … {left} more lines"]
