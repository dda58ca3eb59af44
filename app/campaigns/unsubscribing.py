"""Signed links that end a subscription without a login."""

from uuid import UUID

from django.conf import settings
from django.core.signing import BadSignature, Signer
from django.urls import reverse

from campaigns.models import Contact

_SALT = "campaigns.unsubscribe"


def token_for(contact: Contact) -> str:
    """Return the contact's token. It does not expire: the right to leave does not either."""
    return Signer(salt=_SALT).sign(contact.uuid.hex)


def contact_for(token: str) -> Contact | None:
    """Return the contact the token was made for; None if it was not made here or the contact is gone."""
    try:
        value = Signer(salt=_SALT).unsign(token)
    except BadSignature:
        return None
    return Contact.objects.filter(uuid=UUID(hex=value)).first()


def url_for(contact: Contact) -> str:
    """Return the full address of the contact's unsubscribe page."""
    return settings.PUBLIC_URL + reverse("unsubscribe", kwargs={"token": token_for(contact)})
