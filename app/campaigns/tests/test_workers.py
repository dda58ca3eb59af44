"""Real worker processes, a real mail server, a real database: nothing is sent twice, nothing is lost."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from email import message_from_bytes
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from django.conf import settings as django_settings
from django.core import mail
from django.core.mail.backends.locmem import EmailBackend as LocmemBackend
from django.db import OperationalError, connection
from django_tasks_db.models import DBTaskResult

from campaigns.models import Campaign
from campaigns.services import sending
from campaigns.services.campaigns import schedule_campaign

pytestmark = pytest.mark.django_db(transaction=True)

APP = Path(__file__).resolve().parents[2]
PATIENCE = 60  # seconds until a test gives up waiting


class MailServer:
    """An SMTP server on a free port that keeps what it gets, and may hold one mail while it is in flight."""

    port: int

    def __init__(self) -> None:
        self.received: list[tuple[str, str]] = []  # (receiver, Message-ID)
        self.hold_number = 0  # which mail to hold, counted from 1; 0 holds none
        self.in_flight = threading.Event()
        self.release = threading.Event()
        self._count = 0

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  (aiosmtpd)
        self._count += 1
        await asyncio.sleep(0.01)
        message = message_from_bytes(envelope.content)
        self.received.append((envelope.rcpt_tos[0], message["Message-ID"]))
        if self._count == self.hold_number:
            # The worst moment: the mail is accepted for good, and the sender does not know it yet.
            self.in_flight.set()
            while not self.release.is_set():
                await asyncio.sleep(0.02)
        return "250 OK"

    def receivers(self) -> Counter:
        return Counter(receiver for receiver, _ in self.received)


@pytest.fixture
def server() -> Iterator[MailServer]:
    handler = MailServer()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        handler.port = probe.getsockname()[1]
    controller = Controller(handler, hostname="127.0.0.1", port=handler.port)
    controller.start()
    yield handler
    handler.release.set()
    controller.stop()


@pytest.fixture
def start(server: MailServer, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """A function that starts `manage.py` as the containers of dev do, on this test's database and mail server."""
    running = []

    def start(*command: str, **variables: str) -> subprocess.Popen:
        database = connection.settings_dict
        environment = {
            name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "PYTHONPATH")
        } | {
            "DJANGO_ENV": "development",
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "SECRET_KEY": django_settings.SECRET_KEY,
            "JWT_SIGNING_KEY": django_settings.JWT_SIGNING_KEY,
            "DATABASE_HOST": database["HOST"],
            "DATABASE_PORT": str(database["PORT"]),
            "DATABASE_NAME": database["NAME"],
            "DATABASE_USER": database["USER"],
            "DATABASE_PASSWORD": database["PASSWORD"],
            "EMAIL_HOST": "127.0.0.1",
            "EMAIL_PORT": str(server.port),
            "EMAIL_USE_TLS": "false",
            "DEFAULT_FROM_EMAIL": "news@example.org",
            "STATIC_ROOT": str(tmp_path / "static"),
            "MEDIA_ROOT": str(tmp_path / "media"),
            "LOG_DIR": str(tmp_path),
            "CAMPAIGN_BATCH_SIZE": "5",
            "PYTHONDONTWRITEBYTECODE": "1",
            **variables,
        }
        process = subprocess.Popen([sys.executable, "manage.py", *command], cwd=APP, env=environment)
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()


def worker(start: Callable[..., subprocess.Popen], **variables: str) -> subprocess.Popen:
    return start("worker", "--no-reload", "--interval", "0.1", "--due-interval", "0.5", **variables)


def wait_until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.1)


def is_sent(campaign: Campaign) -> bool:
    campaign.refresh_from_db()
    return campaign.status == Campaign.Status.SENT


def test_two_workers_send_each_mail_once(draft, start, server) -> None:
    campaign = schedule_campaign(campaign=draft(80))
    workers = [worker(start), worker(start)]
    wait_until(lambda: Campaign.objects.filter(pk=campaign.pk, status="sending").exists(), "the start")
    # A second chain of batches for the same campaign, so that both workers are on it at once.
    DBTaskResult.objects.create(
        task_path="campaigns.tasks.send_campaign_batch",
        args_kwargs={"args": [campaign.pk], "kwargs": {}},
        queue_name="default",
        backend_name="default",
        run_after=campaign.created_at,
    )
    wait_until(lambda: is_sent(campaign), "the campaign to be sent")
    assert server.receivers() == Counter({f"reader{number}@example.com": 1 for number in range(80)})
    assert set(campaign.deliveries.values_list("status", "attempts", "error")) == {("sent", 1, "")}
    batches = DBTaskResult.objects.filter(task_path="campaigns.tasks.send_campaign_batch")
    assert len({name for names in batches.values_list("worker_ids", flat=True) for name in names}) == 2
    for process in workers:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(PATIENCE) for process in workers] == [0, 0]


def test_claims_in_many_threads_never_overlap(draft, settings) -> None:
    settings.CAMPAIGN_BATCH_SIZE = 3
    campaign = schedule_campaign(campaign=draft(100))
    sending.start_next_due_campaign()
    claimed: list[list] = [[] for _ in range(8)]
    together = threading.Barrier(8)

    def claim(number: int) -> None:
        together.wait()
        try:
            while rows := sending._claim(campaign.pk, f"worker{number}"):
                claimed[number].extend(row.pk for row in rows)
        finally:
            connection.close()

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = [pk for rows in claimed for pk in rows]
    assert len(taken) == len(set(taken)) == 100


def test_a_killed_worker_loses_nothing_and_only_the_mail_in_flight_may_come_twice(draft, start, server) -> None:
    server.hold_number = 8  # the third mail of the second batch of five
    campaign = schedule_campaign(campaign=draft(12))
    first = worker(start, CAMPAIGN_LEASE_SECONDS="3")
    assert server.in_flight.wait(PATIENCE)
    first.send_signal(signal.SIGKILL)
    assert first.wait(PATIENCE) == -signal.SIGKILL

    unsure = campaign.deliveries.get(status="sending")
    claimed = campaign.deliveries.exclude(claimed_by="")
    assert (claimed.count(), campaign.deliveries.filter(status="sent").count()) == (3, 7)
    server.release.set()

    worker(start, CAMPAIGN_LEASE_SECONDS="3")
    wait_until(lambda: is_sent(campaign), "the second worker to finish")
    counts = server.receivers()
    assert set(counts) == {f"reader{number}@example.com" for number in range(12)}
    assert counts.pop(unsure.email) == 2
    assert set(counts.values()) == {1}
    assert len({message_id for receiver, message_id in server.received if receiver == unsure.email}) == 1
    assert set(campaign.deliveries.values_list("status", flat=True)) == {"sent"}
    assert list(campaign.deliveries.filter(attempts=2).values_list("email", flat=True)) == [unsure.email]


def test_a_worker_told_to_stop_finishes_the_job_in_hand(draft, start, server) -> None:
    server.hold_number = 2
    campaign = schedule_campaign(campaign=draft(8))
    process = worker(start)
    assert server.in_flight.wait(PATIENCE)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    server.release.set()
    assert process.wait(PATIENCE) == 0
    # The batch of five is done, the next was not begun and stands in the queue.
    assert sorted(campaign.deliveries.values_list("status", "claimed_by")) == [("pending", "")] * 3 + [("sent", "")] * 5
    assert DBTaskResult.objects.ready().filter(task_path="campaigns.tasks.send_campaign_batch").count() == 1
    assert set(server.receivers().values()) == {1}


def test_the_scheduler_queues_due_campaigns_and_ends_cleanly(draft, start) -> None:
    campaign = schedule_campaign(campaign=draft(2))
    scheduler = start("send_due", "--loop", "1")
    queued = DBTaskResult.objects.filter(task_path="campaigns.tasks.send_campaign_batch")
    wait_until(queued.exists, "a batch in the queue")
    campaign.refresh_from_db()
    assert campaign.status == Campaign.Status.SENDING
    time.sleep(2)
    assert queued.count() == 1  # it looked again, and did not queue a second one
    scheduler.send_signal(signal.SIGTERM)
    assert scheduler.wait(PATIENCE) == 0


def test_the_scheduler_sends_by_itself_where_tasks_run_at_once(draft, start) -> None:
    """As in local: no worker, mails on the console."""
    scheduler = start("send_due", "--loop", "1", DJANGO_ENV="local")
    time.sleep(2)  # it is past its first look
    campaign = schedule_campaign(campaign=draft(2))
    wait_until(lambda: is_sent(campaign), "the campaign to be sent")
    scheduler.send_signal(signal.SIGTERM)
    assert scheduler.wait(PATIENCE) == 0


class CutOff(LocmemBackend):
    """A mail server in memory; the database ends this process's connection while the second mail is taken."""

    def send_messages(self, messages) -> int:
        sent = super().send_messages(messages)
        if len(mail.outbox) == 2:
            with pytest.raises(OperationalError), connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return sent


def test_a_lost_database_connection_repeats_no_mail(draft, mailoutbox, settings) -> None:
    settings.EMAIL_BACKEND = f"{__name__}.CutOff"
    campaign = schedule_campaign(campaign=draft(4))
    sending.start_next_due_campaign()
    assert not sending.send_batch(campaign.pk)
    assert is_sent(campaign)
    assert len(mailoutbox) == 4
    assert set(campaign.deliveries.values_list("status", "attempts")) == {("sent", 1)}
