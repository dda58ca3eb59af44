"""From a template and a contact to a mail."""

from email.utils import parseaddr

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.core.mail.backends.base import BaseEmailBackend

from campaigns.models import Campaign, Contact, Delivery, MessageTemplate
from campaigns.placeholders import fill
from campaigns.unsubscribing import url_for


def values_for(contact: Contact) -> dict[str, str]:
    """Return a value for each placeholder."""
    return {
        "email": contact.email,
        "first_name": contact.first_name,
        "last_name": contact.last_name,
        "unsubscribe_url": url_for(contact),
    }


def preview(*, template: MessageTemplate, contact: Contact) -> dict[str, str]:
    """Return subject, text and HTML as the contact would get them."""
    values = values_for(contact)
    return {
        "subject": fill(template.subject, values),
        "text_body": fill(template.text_body, values),
        "html_body": fill(template.html_body, values, html=True),
    }


def message_id(delivery: Delivery) -> str:
    """Return the delivery's Message-ID. It is the same for each attempt, so that receivers can drop a repetition."""
    domain = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2] or "localhost"
    return f"<{delivery.pk}@{domain}>"


def build_message(
    *, campaign: Campaign, delivery: Delivery, contact: Contact, connection: BaseEmailBackend
) -> EmailMultiAlternatives:
    """Build the mail for one delivery, from the campaign's own copy of the template."""
    values = values_for(contact)
    # A name may hold a line end (from an import); in a header it would begin another one.
    subject = " ".join(fill(campaign.subject, values).split())
    message = EmailMultiAlternatives(
        subject=subject,
        body=fill(campaign.text_body, values),
        from_email=settings.DEFAULT_FROM_EMAIL,
        to=[delivery.email],
        connection=connection,
        headers={
            "Message-ID": message_id(delivery),
            "List-Unsubscribe": f"<{values['unsubscribe_url']}>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        },
    )
    if campaign.html_body:
        message.attach_alternative(fill(campaign.html_body, values, html=True), "text/html")
    return message
