"""manage.py worker."""

import os
import threading
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.utils.autoreload import DJANGO_AUTORELOAD_ENV
from django_tasks_db.backend import DatabaseBackend
from django_tasks_db.management.commands import db_worker

from campaigns.scheduling import run_clock


class Command(db_worker.Command):
    """The database worker of django-tasks, with the clock of send_due in a thread beside it.

    So an environment needs no scheduler process of its own; one that has it runs both without harm.
    """

    help = "Run background tasks and look for due campaigns until told to stop; the job in hand is finished first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--due-interval",
            type=float,
            default=15,
            metavar="SECONDS",
            help="look for due campaigns so often; 0 leaves that to a scheduler process (default: %(default)s)",
        )

    def handle(self, *, due_interval: float, **options: Any) -> None:
        backend = settings.TASKS["default"]["BACKEND"]
        if not backend.endswith(DatabaseBackend.__name__):
            raise CommandError(
                f"Tasks run at once here ({backend}), so there is nothing for a worker to do. Use "
                "`manage.py send_due --loop 15`, or set DJANGO_ENV=development or production."
            )
        # Under the reloader only the child works; the parent just watches files.
        working = not options["reload"] or os.environ.get(DJANGO_AUTORELOAD_ENV) == "true"
        if due_interval > 0 and working:
            # A daemon: when the worker ends, an unfinished look is rolled back by the database and repeated later.
            threading.Thread(
                target=run_clock,
                kwargs={"interval": due_interval, "stop": threading.Event()},
                name="clock",
                daemon=True,
            ).start()
        super().handle(**options)
