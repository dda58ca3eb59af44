"""Something that is done when a block takes too long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def after(seconds: float, do: Callable[[], object]) -> Iterator[None]:
    """Do something once a block has taken so long; a block that has ended by then has it called off.

    Args:
        seconds: how long.
        do: what, in a thread of its own.
    """
    timer = threading.Timer(seconds, do)
    # A signal that comes while it starts ends us at once: nobody may wait for it then.
    timer.daemon = True
    try:
        timer.start()
        yield
    finally:
        timer.cancel()
