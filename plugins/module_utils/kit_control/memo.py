"""What was computed from the same text before, kept beside the installed packages: a deploy starts anew each time.

Only what follows from the text alone is kept, under the hash of it; a file that cannot be read or written costs time.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

# Read-only where the packages are: then nothing is kept.
FOLDER = Path(sys.prefix) / ".kit-memo"
# Texts change; their old values go.
MOST = 64


def remembered(what: str, text: bytes, make: Callable[[], Any]) -> Any:
    """Give a value that follows from a text.

    Args:
        what: names the computation; another version of it needs another name.
        text: all that the value depends on.
        make: computes it; the value is made of what marshal knows (texts, numbers, lists, mappings, None).
    """
    path = FOLDER / f"{what}-{hashlib.sha256(text).hexdigest()}"
    with suppress(OSError, EOFError, ValueError, TypeError):
        return marshal.loads(path.read_bytes())  # noqa: S302 - ours, as trusted as the packages beside it
    value = make()
    # ValueError: not only what marshal knows, after all.
    with suppress(OSError, ValueError):
        keep(path, marshal.dumps(value))
    return value


def keep(path: Path, content: bytes) -> None:
    """Keep something, whole or not at all.

    Args:
        path: in FOLDER; of those whose names begin like it, up to the first dash, the oldest go.
        content: of the file.

    Raises:
        OSError: it cannot be kept.
    """
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    kept = sorted(FOLDER.glob(f"{path.name.partition('-')[0]}-*"), key=lambda one: one.stat().st_mtime)
    for old in kept[: max(0, len(kept) + 1 - MOST)]:
        old.unlink(missing_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.touch(mode=0o600)
    new.write_bytes(content)
    new.replace(path)
