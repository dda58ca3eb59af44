"""Sending, so that no mail is lost and none goes out twice, with any number of workers and any of them dying.

How a delivery moves:

1. Claim. A worker takes a batch of rows with `SELECT ... FOR UPDATE SKIP LOCKED`, writes its name and a lease on
   them and commits. Two workers never hold the same row, and no lock is held while a mail server is slow.
2. Begin. Row by row, right before its SMTP transaction, the worker renews the lease, counts the attempt, sets the row
   to `sending`, and commits. This step fails if the lease has run out, another has claimed the row, or the campaign
   was cancelled; then the row is left alone.
3. Send, then set the row to `sent` and commit. A database that is away at this moment is asked again for some seconds.

A worker that dies leaves claimed rows behind. When the lease ends, others take them:
- rows still `pending` were never begun: they are sent, surely for the first time;
- the one row in `sending` is the only one unsure: its SMTP transaction was in flight. It is sent again, with the same
  Message-ID, because a mail that arrives twice does less harm than one that never comes, and many receivers drop the
  second one.

The lease must outlast the slowest SMTP transaction, or a living worker would be taken for a dead one. A transaction has
about eight steps, each bound by EMAIL_TIMEOUT (15 s); the default lease is 600 s.

Who goes on: a task sends one batch and queues the next. `Campaign.next_batch_at` is the time at which that chain is
taken for broken (or at which a retry is due); then send_due queues a new one. Two chains at once do no harm: steps 1
and 2 keep them apart.

Errors: one that concerns the receiver (5xx) fails the delivery; a passing one (4xx, a lost connection) is tried again
after 1, 4, 16 and 64 minutes, CAMPAIGN_MAX_ATTEMPTS times in all. A mail server that cannot be reached at all costs no
delivery an attempt: the batch is handed back and comes again in a minute.
"""

import logging
import smtplib
import time
import uuid
from datetime import timedelta

from django.conf import settings
from django.core.mail import get_connection
from django.core.mail.backends.base import BaseEmailBackend
from django.db import InterfaceError, OperationalError, transaction
from django.db import connection as database
from django.db.models import Exists, F, Min
from django.db.models.functions import Now
from django.utils import timezone

from campaigns.models import Campaign, Delivery
from campaigns.selectors import claimable_deliveries, due_campaigns, open_deliveries, stalled_campaigns, subscribed
from campaigns.services.messages import build_message

logger = logging.getLogger(__name__)

RETRY_AFTER = timedelta(minutes=1)
_RETRY_FACTOR = 4
_INSERT_SIZE = 1000  # rows per INSERT
_INSISTENCE = (0, 1, 2, 4, 8)  # seconds between tries to write an outcome; together far below any sound lease


def _lease() -> timedelta:
    return timedelta(seconds=settings.CAMPAIGN_LEASE_SECONDS)


# Starting


@transaction.atomic
def start_next_due_campaign() -> int | None:
    """Move the longest-due scheduled campaign to sending, with a delivery for each subscribed contact.

    Returns:
        The campaign's id, or None when none is due (or another process is starting the last one).
    """
    campaign = due_campaigns().select_for_update(skip_locked=True).first()
    if campaign is None:
        return None
    template = campaign.template
    campaign.status = Campaign.Status.SENDING
    campaign.started_at = timezone.now()
    campaign.subject = template.subject
    campaign.text_body = template.text_body
    campaign.html_body = template.html_body
    # Due at once: the caller queues the first batch, and if it dies before, the next send_due does.
    campaign.next_batch_at = campaign.started_at
    campaign.save()
    contacts = subscribed(campaign.contact_list).values_list("pk", "email").iterator(chunk_size=_INSERT_SIZE)
    Delivery.objects.bulk_create(
        (
            Delivery(campaign=campaign, contact_id=pk, email=email, next_attempt_at=campaign.started_at)
            for pk, email in contacts
        ),
        batch_size=_INSERT_SIZE,
    )
    logger.info("Campaign %d starts.", campaign.pk)
    return campaign.pk


@transaction.atomic
def take_next_stalled_campaign() -> int | None:
    """Return the id of a campaign that needs a batch queued, and mark it so that no other process queues one too."""
    campaign = stalled_campaigns().select_for_update(skip_locked=True).first()
    if campaign is None:
        return None
    campaign.next_batch_at = timezone.now() + _lease()
    campaign.save(update_fields=["next_batch_at"])
    return campaign.pk


# Sending


def _claim(campaign_id: int, worker: str) -> list[Delivery]:
    with transaction.atomic():
        rows = list(
            claimable_deliveries(campaign_id).select_for_update(skip_locked=True)[: settings.CAMPAIGN_BATCH_SIZE]
        )
        Delivery.objects.filter(pk__in=[row.pk for row in rows]).update(
            claimed_by=worker, lease_expires_at=Now() + _lease()
        )
    for row in rows:
        if row.status == Delivery.Status.SENDING:
            logger.warning(
                "Delivery %s was in flight when its worker died; whether it arrived is not known. It is sent again "
                "with the same Message-ID.",
                row.pk,
            )
    return rows


def _begin(delivery: Delivery, worker: str) -> bool:
    """Commit that the SMTP transaction begins; False if the row is not ours any more."""
    sending = Campaign.objects.filter(pk=delivery.campaign_id, status=Campaign.Status.SENDING)
    begun = Delivery.objects.filter(
        Exists(sending),
        pk=delivery.pk,
        claimed_by=worker,
        lease_expires_at__gt=Now(),
        status__in=(Delivery.Status.PENDING, Delivery.Status.SENDING),
    ).update(status=Delivery.Status.SENDING, attempts=F("attempts") + 1, lease_expires_at=Now() + _lease())
    delivery.attempts += begun
    return bool(begun)


def _end(delivery: Delivery, worker: str, **changes: object) -> None:
    """Write down what became of the row, and insist: a mail not known to be sent would be sent again."""
    row = Delivery.objects.filter(pk=delivery.pk, claimed_by=worker)
    for pause in (*_INSISTENCE, None):
        try:
            row.update(claimed_by="", lease_expires_at=None, **changes)
        except (OperationalError, InterfaceError) as error:
            if pause is None or database.in_atomic_block:
                raise
            logger.warning("The outcome of delivery %s waits %d s for the database: %s", delivery.pk, pause, error)
            database.close()  # opened afresh by the next query
            time.sleep(pause)
        else:
            return


def _hand_back(rows: list[Delivery], worker: str) -> None:
    Delivery.objects.filter(pk__in=[row.pk for row in rows], claimed_by=worker, status=Delivery.Status.PENDING).update(
        claimed_by="", lease_expires_at=None
    )


def _is_final(error: Exception) -> bool:
    """Tell whether the server's answer means that this receiver will never get the mail."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(code >= 500 for code, _ in error.recipients.values())
    # A refused sender is a fault of ours that somebody will mend, so the delivery waits.
    if isinstance(error, smtplib.SMTPSenderRefused):
        return False
    if isinstance(error, smtplib.SMTPResponseException):
        return error.smtp_code >= 500
    # No answer of a server: the connection broke (try again), or the mail cannot be built (never will).
    return not isinstance(error, smtplib.SMTPException | OSError)


def _failed(delivery: Delivery, worker: str, error: Exception) -> None:
    reason = f"{type(error).__name__}: {error}"[:1000]
    if _is_final(error) or delivery.attempts >= settings.CAMPAIGN_MAX_ATTEMPTS:
        logger.warning("Delivery %s failed: %s", delivery.pk, reason)
        _end(delivery, worker, status=Delivery.Status.FAILED, error=reason)
        return
    wait = RETRY_AFTER * _RETRY_FACTOR ** (delivery.attempts - 1)
    logger.info("Delivery %s is tried again in %s: %s", delivery.pk, wait, reason)
    _end(delivery, worker, status=Delivery.Status.PENDING, error=reason, next_attempt_at=Now() + wait)


def _send(campaign: Campaign, delivery: Delivery, worker: str, connection: BaseEmailBackend) -> None:
    contact = delivery.contact
    if contact is None or contact.unsubscribed_at is not None:
        reason = "The contact was deleted." if contact is None else "The contact has unsubscribed."
        _end(delivery, worker, status=Delivery.Status.SKIPPED, error=reason)
        return
    if delivery.attempts >= settings.CAMPAIGN_MAX_ATTEMPTS:
        # Only a row whose worker died each time comes here: it may be what kills them.
        _end(delivery, worker, status=Delivery.Status.FAILED, error="The worker died in each attempt.")
        return
    if not _begin(delivery, worker):
        return
    try:
        build_message(campaign=campaign, delivery=delivery, contact=contact, connection=connection).send()
    except Exception as error:  # whatever it is, it must be written on this row and not stop the others
        _failed(delivery, worker, error)
        if not _is_final(error):
            connection.close()  # opened afresh by the next mail: the dialogue may be out of step
    else:
        _end(delivery, worker, status=Delivery.Status.SENT, error="", sent_at=Now())


def _send_claimed(campaign: Campaign, rows: list[Delivery], worker: str) -> bool:
    """Send the claimed rows; False if the mail server cannot be reached. Rows not come to are handed back."""
    connection = get_connection()
    deadline = time.monotonic() + settings.CAMPAIGN_BATCH_SECONDS
    left = list(rows)
    try:
        while left and time.monotonic() < deadline:
            try:
                connection.open()  # does nothing while it is open
            except (smtplib.SMTPException, OSError) as error:
                logger.error("The mail server %s cannot be used: %s", settings.EMAIL_HOST, error)
                return False
            _send(campaign, left.pop(0), worker, connection)
        return True
    finally:
        _hand_back(left, worker)
        connection.close()


def _finish_or_wait(campaign: Campaign, *, reachable: bool) -> bool:
    """Settle what comes after a batch; True if the next one can follow at once."""
    now = timezone.now()
    current = Campaign.objects.filter(pk=campaign.pk, status=Campaign.Status.SENDING)
    if not reachable:
        current.update(next_batch_at=now + RETRY_AFTER)
        return False
    if claimable_deliveries(campaign.pk).exists():
        current.update(next_batch_at=now + _lease())
        return current.exists()
    waiting = open_deliveries(campaign)
    if waiting.exists():
        # Retries, or rows in the hands of another worker: come back when the first of them can be taken.
        soonest = waiting.aggregate(retry=Min("next_attempt_at"), lease=Min("lease_expires_at"))
        times = [moment for moment in soonest.values() if moment is not None and moment > now]
        current.update(next_batch_at=min(times, default=now + RETRY_AFTER))
        return False
    if current.update(status=Campaign.Status.SENT, finished_at=now, next_batch_at=None):
        logger.info("Campaign %d is sent.", campaign.pk)
    return False


def send_batch(campaign_id: int) -> bool:
    """Send one batch of a campaign: at most CAMPAIGN_BATCH_SIZE mails, begun within CAMPAIGN_BATCH_SECONDS.

    So a worker that is told to stop is done with the job in hand after 20 s and one SMTP transaction.

    Args:
        campaign_id: the campaign; one that is not sending (cancelled, done, deleted) is left alone.

    Returns:
        True if the next batch can follow at once.
    """
    campaign = Campaign.objects.filter(pk=campaign_id, status=Campaign.Status.SENDING).first()
    if campaign is None:
        return False
    worker = uuid.uuid4().hex
    rows = _claim(campaign_id, worker)
    reachable = _send_claimed(campaign, rows, worker) if rows else True
    return _finish_or_wait(campaign, reachable=reachable)
