"""The clock: looks for due campaigns at an interval, and cleans up once a day."""

import logging
import threading
import time
from collections.abc import Callable

from django.core.management import call_command
from django.db import Error, close_old_connections
from django_tasks import task_backends
from django_tasks_db.backend import DatabaseBackend

from campaigns.tasks import queue_due_campaigns

logger = logging.getLogger(__name__)

_CLEANING_INTERVAL = 24 * 60 * 60  # seconds


def clean_up() -> None:
    """Delete expired tokens from the blacklist, finished task results over 14 days old, and expired sessions."""
    call_command("flushexpiredtokens", verbosity=0)
    # The command refuses to run where tasks run at once; there are no results then.
    if isinstance(task_backends["default"], DatabaseBackend):
        call_command("prune_db_task_results", verbosity=0)
    call_command("clearsessions", verbosity=0)


def _attempt(what: str, call: Callable[[], object]) -> None:
    """Do it; an error is logged and no more, since nothing would start a clock again that has stopped in a thread."""
    try:
        call()
    except Error as error:  # a database that is away is no riddle that needs a traceback
        logger.error("%s failed, to be tried again: %s", what, error)
    except Exception:  # logged whatever it is: the clock must go on
        logger.exception("%s failed, to be tried again", what)


def run_clock(*, interval: float, stop: threading.Event) -> None:
    """Look for due campaigns every `interval` seconds until `stop` is set; clean up at the start and once a day.

    A database that is away is waited for: the process would only be restarted into the same trouble.
    """
    next_cleaning = time.monotonic()
    while not stop.is_set():
        close_old_connections()
        _attempt("Looking for due campaigns", queue_due_campaigns)
        if time.monotonic() >= next_cleaning:
            next_cleaning = time.monotonic() + _CLEANING_INTERVAL
            _attempt("Cleaning up", clean_up)
        close_old_connections()
        stop.wait(interval)
