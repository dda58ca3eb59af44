"""/api/campaigns/."""

from datetime import timedelta

import pytest
from django.utils import timezone

from campaigns.models import Campaign, Delivery
from campaigns.services.contacts import unsubscribe_contact


def later(**delta: int) -> str:
    return (timezone.now() + timedelta(**delta)).isoformat()


def test_an_editor_drafts_and_a_sender_sends(client_with, draft, mailoutbox) -> None:
    shape = draft()
    drafted = client_with("editor").post(
        "/api/campaigns/", {"name": "Second", "contact_list": shape.contact_list_id, "template": shape.template_id}
    )
    assert (drafted.status_code, drafted.json()["status"]) == (201, "draft")
    assert drafted.json()["created_by"] == "editor"
    sent = client_with("sender").post(f"/api/campaigns/{drafted.json()['id']}/send/")
    assert sent.status_code == 202
    # Tasks run at once in the tests, as in local.
    assert (sent.json()["status"], sent.json()["deliveries"]["sent"]) == ("sent", 3)
    assert sorted(mail.to[0] for mail in mailoutbox) == [f"reader{n}@example.com" for n in range(3)]


@pytest.mark.parametrize("role", ["viewer", "editor"])
@pytest.mark.parametrize("step", ["send", "schedule", "cancel"])
def test_only_senders_move_a_campaign(client_with, draft, mailoutbox, role: str, step: str) -> None:
    campaign = draft()
    answer = client_with(role).post(f"/api/campaigns/{campaign.pk}/{step}/", {"scheduled_at": later(hours=1)})
    assert answer.status_code == 403
    campaign.refresh_from_db()
    assert campaign.status == Campaign.Status.DRAFT
    assert mailoutbox == []


def test_a_sender_drafts_nothing(client_with, draft) -> None:
    shape = draft()
    answer = client_with("sender").post(
        "/api/campaigns/", {"name": "x", "contact_list": shape.contact_list_id, "template": shape.template_id}
    )
    assert answer.status_code == 403


def test_nobody_sets_the_state_by_hand(client_with, draft) -> None:
    campaign = draft()
    client_with("editor").patch(f"/api/campaigns/{campaign.pk}/", {"status": "sent", "name": "New name"})
    campaign.refresh_from_db()
    assert (campaign.status, campaign.name) == ("draft", "New name")


def test_a_scheduled_campaign_waits(client_with, draft, mailoutbox) -> None:
    campaign = draft()
    when = later(hours=1)
    answer = client_with("sender").post(f"/api/campaigns/{campaign.pk}/schedule/", {"scheduled_at": when})
    assert (answer.status_code, answer.json()["status"]) == (200, "scheduled")
    assert mailoutbox == []


@pytest.mark.parametrize(("sent", "code"), [({"scheduled_at": "soon"}, 400), ({}, 400)])
def test_a_schedule_needs_a_time(client_with, draft, sent, code: int) -> None:
    assert client_with("sender").post(f"/api/campaigns/{draft().pk}/schedule/", sent).status_code == code


def test_a_time_gone_by_is_refused(client_with, draft) -> None:
    answer = client_with("sender").post(f"/api/campaigns/{draft().pk}/schedule/", {"scheduled_at": later(hours=-1)})
    assert answer.status_code == 400
    assert "has passed" in str(answer.json())


def test_an_empty_list_is_refused(client_with, draft) -> None:
    campaign = draft(1)
    unsubscribe_contact(contact=campaign.contact_list.contacts.get())
    answer = client_with("sender").post(f"/api/campaigns/{campaign.pk}/send/")
    assert answer.status_code == 400
    assert "Nobody on this list" in str(answer.json())


@pytest.mark.parametrize("status", ["scheduled", "sending", "sent", "cancelled"])
def test_what_is_no_draft_is_neither_changed_nor_sent_again(client_with, draft, status: str) -> None:
    campaign = draft()
    Campaign.objects.filter(pk=campaign.pk).update(status=status, scheduled_at=timezone.now())
    address = f"/api/campaigns/{campaign.pk}/"
    editor, sender = client_with("editor"), client_with("sender")
    assert editor.patch(address, {"name": "x"}).status_code == 409
    assert editor.delete(address).status_code == 409
    assert sender.post(f"{address}send/").status_code == 409
    assert sender.post(f"{address}schedule/", {"scheduled_at": later(hours=1)}).status_code == 409


@pytest.mark.parametrize(
    ("status", "code"), [("draft", 200), ("scheduled", 200), ("sending", 200), ("sent", 409), ("cancelled", 409)]
)
def test_cancelling(client_with, draft, status: str, code: int) -> None:
    campaign = draft()
    Campaign.objects.filter(pk=campaign.pk).update(status=status, scheduled_at=timezone.now())
    assert client_with("sender").post(f"/api/campaigns/{campaign.pk}/cancel/").status_code == code


def test_deliveries_are_listed_with_their_errors(client_with, draft) -> None:
    campaign = draft()
    contact = campaign.contact_list.contacts.first()
    Delivery.objects.create(
        campaign=campaign,
        contact=contact,
        email=contact.email,
        status="failed",
        attempts=1,
        error="550 no such user",
        next_attempt_at=timezone.now(),
    )
    answer = client_with("viewer").get(f"/api/campaigns/{campaign.pk}/deliveries/").json()
    assert [(row["email"], row["status"], row["error"]) for row in answer["results"]] == [
        (contact.email, "failed", "550 no such user")
    ]


@pytest.mark.django_db
@pytest.mark.parametrize("number", ["99999", "abc", "%00", "9" * 30])
@pytest.mark.parametrize("rest", ["", "deliveries/"])
def test_a_campaign_that_does_not_exist_is_not_found(client_with, number: str, rest: str) -> None:
    assert client_with("viewer").get(f"/api/campaigns/{number}/{rest}").status_code == 404
