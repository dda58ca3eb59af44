"""How deliveries move, in one process. Several processes, and their death: test_workers.py."""

import smtplib
from datetime import timedelta

import pytest
from django.core.mail.backends.locmem import EmailBackend
from django.core.management import call_command
from django.db.models import F
from django.utils import timezone

from campaigns.models import Campaign, Delivery
from campaigns.services import sending
from campaigns.services.campaigns import cancel_campaign, schedule_campaign
from campaigns.services.contacts import unsubscribe_contact
from campaigns.tasks import queue_due_campaigns


class Unwilling(EmailBackend):
    """A mail server in memory that refuses receivers as `refusals` says, and all of them while `down`."""

    refusals: dict[str, Exception] = {}
    down = False

    def open(self) -> bool:
        if self.down:
            raise ConnectionRefusedError("connection refused")
        return True

    def send_messages(self, messages) -> int:
        for message in messages:
            if error := self.refusals.get(message.to[0]):
                raise error
        return super().send_messages(messages)


@pytest.fixture
def server(settings, monkeypatch) -> type[Unwilling]:
    settings.EMAIL_BACKEND = f"{__name__}.Unwilling"
    monkeypatch.setattr(Unwilling, "refusals", {})
    monkeypatch.setattr(Unwilling, "down", False)
    return Unwilling


@pytest.fixture
def started(draft):
    """A function that makes a campaign and starts it, its first batch not yet sent."""

    def start(size: int = 3) -> Campaign:
        campaign = schedule_campaign(campaign=draft(size))
        assert sending.start_next_due_campaign() == campaign.pk
        campaign.refresh_from_db()
        return campaign

    return start


def states(campaign: Campaign) -> list[str]:
    return list(campaign.deliveries.order_by("email").values_list("status", flat=True))


def make_due(campaign: Campaign) -> None:
    """Turn the clock: every wait of the campaign is over."""
    past = timezone.now() - timedelta(seconds=1)
    Campaign.objects.filter(pk=campaign.pk).update(next_batch_at=past)
    campaign.deliveries.update(next_attempt_at=past)
    campaign.deliveries.filter(lease_expires_at__isnull=False).update(lease_expires_at=past)


def test_a_campaign_is_sent_when_its_time_has_come(draft, mailoutbox) -> None:
    campaign = schedule_campaign(campaign=draft(), at=timezone.now() + timedelta(hours=1))
    assert queue_due_campaigns() == 0
    assert mailoutbox == []
    Campaign.objects.update(scheduled_at=F("scheduled_at") - timedelta(hours=2))
    call_command("send_due")
    campaign.refresh_from_db()
    assert campaign.status == Campaign.Status.SENT
    assert campaign.finished_at is not None
    assert states(campaign) == ["sent"] * 3
    call_command("send_due")
    assert len(mailoutbox) == 3


def test_the_mail_itself(started, mailoutbox, settings) -> None:
    settings.DEFAULT_FROM_EMAIL = "News <news@example.org>"
    campaign = started(1)
    campaign.contact_list.contacts.update(first_name="<i>Ada</i>\r\nBcc: x@example.com")
    sending.send_batch(campaign.pk)
    (mail,) = mailoutbox
    delivery = campaign.deliveries.get()
    assert mail.subject == "Hello <i>Ada</i> Bcc: x@example.com"
    assert mail.extra_headers["Message-ID"] == f"<{delivery.pk}@example.org>"
    assert mail.extra_headers["List-Unsubscribe"].startswith("<http://localhost:8000/unsubscribe/")
    assert "<i>Ada</i>" in mail.body
    html = mail.alternatives[0][0]
    assert "<i>Ada" not in html
    assert "&lt;i&gt;Ada" in html


def test_a_template_changed_meanwhile_does_not_change_the_campaign(started, mailoutbox) -> None:
    campaign = started(1)
    campaign.template.subject = "Changed"
    campaign.template.save()
    sending.send_batch(campaign.pk)
    assert mailoutbox[0].subject == "Hello Reader 0"


def test_many_batches_and_no_nesting(started, mailoutbox, settings) -> None:
    settings.CAMPAIGN_BATCH_SIZE = 2
    campaign = started(7)
    assert queue_due_campaigns() == 1
    assert states(campaign) == ["sent"] * 7
    assert len(mailoutbox) == 7


def test_who_left_or_was_deleted_meanwhile_gets_nothing(started, mailoutbox) -> None:
    campaign = started(3)
    first, second, _ = campaign.contact_list.contacts.order_by("email")
    unsubscribe_contact(contact=first)
    second.delete()
    sending.send_batch(campaign.pk)
    assert states(campaign) == ["skipped", "skipped", "sent"]
    assert [mail.to for mail in mailoutbox] == [["reader2@example.com"]]


def test_a_cancelled_campaign_sends_no_more(started, mailoutbox) -> None:
    campaign = started()
    cancel_campaign(campaign=campaign)
    assert not sending.send_batch(campaign.pk)
    assert queue_due_campaigns() == 0
    assert mailoutbox == []
    assert states(campaign) == ["pending"] * 3


def test_cancelling_stops_a_batch_under_way(started, mailoutbox, server, monkeypatch) -> None:
    campaign = started()
    deliver = server.send_messages

    def cancel_after_the_first(self, messages) -> int:
        sent = deliver(self, messages)
        Campaign.objects.filter(status="sending").update(status="cancelled")
        return sent

    monkeypatch.setattr(server, "send_messages", cancel_after_the_first)
    assert not sending.send_batch(campaign.pk)
    assert len(mailoutbox) == 1
    assert sorted(states(campaign)) == ["pending", "pending", "sent"]


def refused(code: int) -> smtplib.SMTPRecipientsRefused:
    return smtplib.SMTPRecipientsRefused({"reader1@example.com": (code, b"no")})


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (refused(550), "failed"),
        (refused(450), "pending"),
        (smtplib.SMTPDataError(554, b"spam"), "failed"),
        (smtplib.SMTPDataError(451, b"later"), "pending"),
        (smtplib.SMTPSenderRefused(550, b"who?", "news@example.org"), "pending"),
        (smtplib.SMTPServerDisconnected("gone"), "pending"),
        (TimeoutError("timed out"), "pending"),
        (ValueError("cannot be built"), "failed"),
    ],
)
def test_one_refused_receiver_does_not_stop_the_others(started, mailoutbox, server, error, status: str) -> None:
    server.refusals = {"reader1@example.com": error}
    campaign = started()
    sending.send_batch(campaign.pk)
    assert states(campaign) == ["sent", status, "sent"]
    row = campaign.deliveries.get(email="reader1@example.com")
    assert type(error).__name__ in row.error
    assert row.attempts == 1
    assert (row.claimed_by, row.lease_expires_at) == ("", None)
    campaign.refresh_from_db()
    assert campaign.status == ("sent" if status == "failed" else "sending")


def test_a_passing_refusal_is_tried_again_later_and_not_for_ever(started, mailoutbox, server, settings) -> None:
    server.refusals = {"reader0@example.com": refused(450)}
    campaign = started(1)
    waits = []
    for _ in range(settings.CAMPAIGN_MAX_ATTEMPTS):
        assert queue_due_campaigns() == 1
        row = campaign.deliveries.get()
        waits.append(round((row.next_attempt_at - timezone.now()).total_seconds() / 60))
        assert queue_due_campaigns() == 0  # not before its time
        make_due(campaign)
    assert waits[:4] == [1, 4, 16, 64]
    assert (row.status, row.attempts) == ("failed", 5)
    campaign.refresh_from_db()
    assert campaign.status == Campaign.Status.SENT


def test_it_arrives_once_the_receiver_is_willing(started, mailoutbox, server) -> None:
    server.refusals = {"reader0@example.com": refused(450)}
    campaign = started(1)
    queue_due_campaigns()
    server.refusals = {}
    make_due(campaign)
    queue_due_campaigns()
    assert states(campaign) == ["sent"]
    assert len(mailoutbox) == 1


def test_a_server_that_is_away_costs_no_attempt(started, mailoutbox, server) -> None:
    server.down = True
    campaign = started()
    for _ in range(10):
        assert queue_due_campaigns() == 1
        make_due(campaign)
    assert set(campaign.deliveries.values_list("status", "attempts", "claimed_by")) == {("pending", 0, "")}
    server.down = False
    queue_due_campaigns()
    assert states(campaign) == ["sent"] * 3
    assert len(mailoutbox) == 3


def test_what_another_worker_holds_is_left_alone(started, mailoutbox) -> None:
    campaign = started()
    campaign.deliveries.update(claimed_by="other", lease_expires_at=timezone.now() + timedelta(minutes=5))
    assert not sending.send_batch(campaign.pk)
    assert mailoutbox == []
    campaign.refresh_from_db()
    # The campaign is looked at again when that lease ends.
    assert timedelta(minutes=4) < campaign.next_batch_at - timezone.now() < timedelta(minutes=5)


def test_a_worker_that_lost_its_claim_sends_nothing(started, mailoutbox) -> None:
    campaign = started(1)
    (row,) = sending._claim(campaign.pk, "slow")
    make_due(campaign)
    assert not sending._begin(row, "slow")  # its lease is over
    sending._claim(campaign.pk, "quick")
    assert not sending._begin(row, "slow")
    assert sending._begin(row, "quick")


def test_a_row_that_kills_its_workers_is_given_up(started, mailoutbox, settings) -> None:
    campaign = started(1)
    past = timezone.now() - timedelta(seconds=1)
    campaign.deliveries.update(
        status="sending", attempts=settings.CAMPAIGN_MAX_ATTEMPTS, claimed_by="dead", lease_expires_at=past
    )
    sending.send_batch(campaign.pk)
    assert mailoutbox == []
    assert states(campaign) == ["failed"]
    assert Delivery.objects.get().error == "The worker died in each attempt."


def test_a_batch_ends_in_time(started, mailoutbox, settings) -> None:
    settings.CAMPAIGN_BATCH_SECONDS = 0
    campaign = started()
    assert sending.send_batch(campaign.pk)  # more to do, at once
    assert mailoutbox == []
    assert set(campaign.deliveries.values_list("status", "claimed_by")) == {("pending", "")}
