"""The clock, in one process. As a process of its own: test_workers.py."""

import threading
from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import InterfaceError, OperationalError
from django.utils import timezone
from django_tasks_db.models import DBTaskResult
from rest_framework_simplejwt.token_blacklist.models import OutstandingToken

from campaigns import scheduling


@pytest.fixture
def old_rows(user_with) -> None:
    """A token that has expired, and a task that ended a month ago."""
    long_ago = timezone.now() - timedelta(days=30)
    OutstandingToken.objects.create(user=user_with(), jti="1", token="x", expires_at=long_ago)
    DBTaskResult.objects.create(
        task_path="campaigns.tasks.send_due",
        args_kwargs={"args": [], "kwargs": {}},
        queue_name="default",
        backend_name="default",
        run_after=long_ago,
        status="SUCCESSFUL",
        finished_at=long_ago,
    )


def test_old_tokens_are_deleted_where_tasks_run_at_once(old_rows) -> None:
    scheduling.clean_up()
    assert not OutstandingToken.objects.exists()


def test_old_task_results_are_deleted_where_there_is_a_queue(old_rows, settings) -> None:
    settings.TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
    scheduling.clean_up()
    assert not DBTaskResult.objects.exists()


@pytest.mark.parametrize(
    "error", [OperationalError("away"), InterfaceError("closed"), ImproperlyConfigured("x"), CommandError("y")]
)
def test_the_clock_outlives_any_error_and_says_so(monkeypatch, caplog, error: Exception) -> None:
    stop = threading.Event()
    looks = []

    def look() -> int:
        looks.append(len(looks))
        if len(looks) == 1:
            raise error
        stop.set()
        return 0

    monkeypatch.setattr(scheduling, "queue_due_campaigns", look)
    monkeypatch.setattr(scheduling, "clean_up", lambda: None)
    monkeypatch.setattr(scheduling, "close_old_connections", lambda: None)
    scheduling.run_clock(interval=0.01, stop=stop)
    assert looks == [0, 1]
    assert str(error) in caplog.text


def test_a_cleaning_that_fails_does_not_keep_campaigns_waiting(monkeypatch) -> None:
    stop = threading.Event()
    looks = []

    def look() -> int:
        looks.append(1)
        if len(looks) == 3:
            stop.set()
        return 0

    def fail() -> None:
        raise CommandError("no")

    monkeypatch.setattr(scheduling, "queue_due_campaigns", look)
    monkeypatch.setattr(scheduling, "clean_up", fail)
    monkeypatch.setattr(scheduling, "close_old_connections", lambda: None)
    scheduling.run_clock(interval=0.01, stop=stop)
    assert len(looks) == 3


@pytest.mark.parametrize("seconds", ["0", "0.5", "-1", "nan"])
def test_the_loop_has_a_least_interval(seconds: str) -> None:
    with pytest.raises(CommandError, match="at least 1 second"):
        call_command("send_due", "--loop", seconds)
