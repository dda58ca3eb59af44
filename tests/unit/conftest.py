"""What several files of unit tests use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kit_engine import lock
from support.released_host import host
from support.sessions import Programs

__all__ = ["host"]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A deploy root that is a host's."""
    yield tmp_path
    place = lock.place_of(tmp_path)
    place.unlink(missing_ok=True)
    lock.socket_of(place).unlink(missing_ok=True)


@pytest.fixture
def programs() -> Iterator[Programs]:
    """Start some."""
    made = Programs()
    yield made
    made.end()
