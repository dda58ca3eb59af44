"""What the admin does beyond showing rows."""

import pytest
from django.test import Client
from django.urls import reverse

from campaigns.admin import CampaignAdmin
from campaigns.models import Campaign


@pytest.fixture
def staff(user_with) -> Client:
    client = Client()
    client.force_login(user_with(is_staff=True, is_superuser=True, username="boss"))
    return client


def form_of(campaign: Campaign, name: str) -> dict[str, str]:
    return {"name": name, "contact_list": str(campaign.contact_list_id), "template": str(campaign.template_id)}


def test_a_draft_made_here_knows_its_maker(staff, draft) -> None:
    shape = draft()
    assert staff.post(reverse("admin:campaigns_campaign_add"), form_of(shape, "Second")).status_code == 302
    made = Campaign.objects.get(name="Second")
    assert (made.status, made.created_by.username) == ("draft", "boss")


def test_a_draft_is_changed_here(staff, draft) -> None:
    campaign = draft()
    address = reverse("admin:campaigns_campaign_change", args=[campaign.pk])
    assert staff.post(address, form_of(campaign, "Renamed")).status_code == 302
    campaign.refresh_from_db()
    assert (campaign.name, campaign.status) == ("Renamed", "draft")


@pytest.mark.parametrize("status", ["scheduled", "sending", "sent", "cancelled"])
def test_what_is_no_draft_is_only_shown(staff, draft, status: str) -> None:
    campaign = draft()
    Campaign.objects.update(status=status, scheduled_at=campaign.created_at)
    address = reverse("admin:campaigns_campaign_change", args=[campaign.pk])
    assert staff.get(address).status_code == 200
    assert staff.post(address, form_of(campaign, "Renamed")).status_code == 403
    campaign.refresh_from_db()
    assert campaign.name == "First"


def test_a_form_saved_while_the_campaign_starts_does_not_turn_it_back(staff, draft, monkeypatch) -> None:
    campaign = draft()
    address = reverse("admin:campaigns_campaign_change", args=[campaign.pk])
    checked = CampaignAdmin.has_change_permission

    def check_then_start(self, request, obj=None) -> bool:
        allowed = checked(self, request, obj)
        if obj is not None:
            # Another process schedules it after the form was let in, and before it is saved.
            Campaign.objects.filter(status="draft").update(status="scheduled", scheduled_at=campaign.created_at)
        return allowed

    monkeypatch.setattr(CampaignAdmin, "has_change_permission", check_then_start)
    assert staff.post(address, form_of(campaign, "Renamed")).status_code == 403
    campaign.refresh_from_db()
    assert campaign.name == "First"  # the state set above was undone with the rest of the request


@pytest.mark.parametrize(("status", "left"), [("draft", 0), ("scheduled", 1), ("sending", 1), ("sent", 0)])
def test_a_running_campaign_is_not_deleted_from_the_list_either(staff, draft, status: str, left: int) -> None:
    campaign = draft()
    Campaign.objects.update(status=status, scheduled_at=campaign.created_at)
    staff.post(
        reverse("admin:campaigns_campaign_changelist"),
        {"action": "delete_selected", "_selected_action": [campaign.pk], "post": "yes"},
    )
    assert Campaign.objects.count() == left
