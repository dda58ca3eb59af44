"""Reads."""

from django.db.models import Count, F, Q, QuerySet
from django.db.models.functions import Now

from campaigns.models import Campaign, Contact, ContactList, Delivery, MessageTemplate


def contact_lists() -> QuerySet[ContactList]:
    """All lists, each with `contact_count` and `subscribed_count`."""
    # A model's own ordering does not hold in a query that groups.
    return ContactList.objects.annotate(
        contact_count=Count("contacts"),
        subscribed_count=Count("contacts", filter=Q(contacts__unsubscribed_at__isnull=True)),
    ).order_by("name")


def campaigns() -> QuerySet[Campaign]:
    """All campaigns with what a listing shows, in one query."""
    return Campaign.objects.select_related("contact_list", "template", "created_by")


def delivery_counts(campaign: Campaign) -> dict[str, int]:
    """Count the campaign's deliveries by status; every status is present."""
    found = dict(campaign.deliveries.order_by().values_list("status").annotate(Count("pk")))
    return {status: found.get(status, 0) for status in Delivery.Status.values}


def subscribed(contact_list: ContactList) -> QuerySet[Contact]:
    """The list's contacts who may get mail."""
    return contact_list.contacts.filter(unsubscribed_at__isnull=True)


def due_campaigns() -> QuerySet[Campaign]:
    """Scheduled campaigns whose time has come by the database's clock, the oldest first."""
    return Campaign.objects.filter(status=Campaign.Status.SCHEDULED, scheduled_at__lte=Now()).order_by("scheduled_at")


def stalled_campaigns() -> QuerySet[Campaign]:
    """Campaigns in the middle of sending that wait for their next batch, the longest-waiting first."""
    return Campaign.objects.filter(status=Campaign.Status.SENDING, next_batch_at__lte=Now()).order_by("next_batch_at")


def open_deliveries(campaign: Campaign) -> QuerySet[Delivery]:
    """Deliveries that are not over yet."""
    return campaign.deliveries.filter(status__in=(Delivery.Status.PENDING, Delivery.Status.SENDING))


def claimable_deliveries(campaign_id: int) -> QuerySet[Delivery]:
    """Deliveries that a worker may take now: due, and in nobody's hands or in those of one whose lease has run out."""
    free = Q(lease_expires_at__isnull=True) | Q(lease_expires_at__lte=Now())
    return Delivery.objects.filter(
        free,
        campaign_id=campaign_id,
        status__in=(Delivery.Status.PENDING, Delivery.Status.SENDING),
        next_attempt_at__lte=Now(),
    ).order_by(F("next_attempt_at"), "pk")


def message_templates() -> QuerySet[MessageTemplate]:
    """All templates."""
    return MessageTemplate.objects.all()
