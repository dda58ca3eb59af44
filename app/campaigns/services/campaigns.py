"""The states of a campaign."""

from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from campaigns.exceptions import CampaignStateError
from campaigns.models import Campaign
from campaigns.selectors import subscribed

CANCELLABLE = (Campaign.Status.DRAFT, Campaign.Status.SCHEDULED, Campaign.Status.SENDING)


def _locked(campaign: Campaign) -> Campaign:
    return Campaign.objects.select_for_update().get(pk=campaign.pk)


def _require_draft(campaign: Campaign, step: str) -> None:
    if campaign.status != Campaign.Status.DRAFT:
        raise CampaignStateError(f"Only a draft can be {step}; this campaign is {campaign.status}.")


@transaction.atomic
def change_draft(*, campaign: Campaign, **fields: Any) -> Campaign:
    """Set fields of a draft.

    Raises:
        CampaignStateError: it is no draft, or has just ceased to be one.
    """
    locked = _locked(campaign)
    _require_draft(locked, "changed")
    for name, value in fields.items():
        setattr(locked, name, value)
    locked.save(update_fields=list(fields))
    return locked


@transaction.atomic
def delete_draft(*, campaign: Campaign) -> None:
    """Delete a draft; what has been scheduled stays as a record.

    Raises:
        CampaignStateError: it is no draft.
    """
    locked = _locked(campaign)
    _require_draft(locked, "deleted")
    locked.delete()


@transaction.atomic
def schedule_campaign(*, campaign: Campaign, at: datetime | None = None) -> Campaign:
    """Move a draft to scheduled.

    Args:
        campaign: a draft.
        at: when to send; None means now.

    Returns:
        The campaign as it is now.

    Raises:
        CampaignStateError: it is no draft.
        ValidationError: the time has passed, or nobody on the list may get mail.
    """
    locked = _locked(campaign)
    _require_draft(locked, "scheduled")
    now = timezone.now()
    if at is not None and at < now:
        raise ValidationError({"scheduled_at": f"{at.isoformat()} has passed. Name a time to come, or send now."})
    if not subscribed(locked.contact_list).exists():
        raise ValidationError({"contact_list": "Nobody on this list may get mail. Add contacts first."})
    locked.status = Campaign.Status.SCHEDULED
    locked.scheduled_at = at or now
    locked.save(update_fields=["status", "scheduled_at"])
    return locked


@transaction.atomic
def cancel_campaign(*, campaign: Campaign) -> Campaign:
    """Stop a campaign. While it is sending, mails not yet begun are never sent; one in flight ends as it may.

    Raises:
        CampaignStateError: it is over already.
    """
    locked = _locked(campaign)
    if locked.status not in CANCELLABLE:
        raise CampaignStateError(f"A campaign that is {locked.status} can no longer be cancelled.")
    locked.status = Campaign.Status.CANCELLED
    locked.finished_at = timezone.now()
    locked.next_batch_at = None
    locked.save(update_fields=["status", "finished_at", "next_batch_at"])
    return locked
