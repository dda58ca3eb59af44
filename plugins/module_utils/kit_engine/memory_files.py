"""Files that lie in memory for as long as something takes: what is removed there is gone, whatever the disk keeps."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

from kit_engine import signals

_FOLDERS = ("/dev/shm", "/run")  # noqa: S108 - a folder of its own is made there


@contextmanager
def folder(prefix: str) -> Iterator[Path]:
    """Make a folder in memory that only we may enter, and remove it at the end.

    Args:
        prefix: of its name. What a run of that prefix left that was killed goes first.
    """
    place = _memory()
    for left in Path(place or tempfile.gettempdir()).glob(f"{prefix}*"):
        owner = left.name[len(prefix) :].partition("-")[0]
        if owner.isdigit() and not signals.runs(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-", dir=place) as made:
        yield Path(made)


def _memory() -> Optional[str]:
    return next((place for place in _FOLDERS if os.access(place, os.W_OK)), None)
