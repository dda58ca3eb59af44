"""manage.py send_due."""

import signal
import threading
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from campaigns.scheduling import run_clock
from campaigns.tasks import queue_due_campaigns


class Command(BaseCommand):
    """Start due campaigns, and move on those that wait for a retry or whose worker died."""

    help = (
        "Start campaigns whose time has come, and queue batches for those that wait for one. Where tasks run at once "
        "(local) it also sends them."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--loop", type=float, metavar="SECONDS", help="keep running, look again after so many seconds (at least 1)"
        )

    def handle(self, *args: Any, loop: float | None, **options: Any) -> None:
        if loop is None:
            queued = queue_due_campaigns()
            self.stdout.write(f"{queued} campaign(s) moved on.")
            return
        if not loop >= 1:
            raise CommandError(f"--loop must be at least 1 second, but is {loop:g}.")
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        run_clock(interval=loop, stop=stop)
        self.stdout.write("Told to stop; ended cleanly.")
