"""The unsubscribe page."""

import pytest

from campaigns.models import Contact
from campaigns.unsubscribing import token_for, url_for


@pytest.fixture
def contact(db) -> Contact:
    return Contact.objects.create(email="ada@example.com")


def left(contact: Contact) -> bool:
    contact.refresh_from_db()
    return contact.unsubscribed_at is not None


def test_opening_the_link_only_asks(client, contact) -> None:
    answer = client.get(f"/unsubscribe/{token_for(contact)}/")
    assert answer.status_code == 200
    assert "ada@example.com" in answer.content.decode()
    assert not left(contact)


def test_the_button_unsubscribes_without_a_cookie(contact) -> None:
    from django.test import Client

    answer = Client(enforce_csrf_checks=True).post(
        f"/unsubscribe/{token_for(contact)}/", {"List-Unsubscribe": "One-Click"}
    )
    assert answer.status_code == 200
    assert left(contact)


def test_a_second_time_keeps_the_first_moment(client, contact) -> None:
    address = f"/unsubscribe/{token_for(contact)}/"
    client.post(address)
    contact.refresh_from_db()
    first = contact.unsubscribed_at
    client.post(address)
    contact.refresh_from_db()
    assert contact.unsubscribed_at == first


@pytest.mark.django_db
@pytest.mark.parametrize("token", ["x", "0" * 32 + ":forged", "::"])
def test_a_forged_token_is_not_found(client, token: str) -> None:
    assert client.post(f"/unsubscribe/{token}/").status_code == 404


def test_another_signature_of_this_site_is_no_token(client, contact) -> None:
    from django.core.signing import Signer

    token = Signer(salt="something.else").sign(contact.uuid.hex)
    assert client.post(f"/unsubscribe/{token}/").status_code == 404
    assert not left(contact)


def test_links_live_on_after_the_key_was_changed(client, contact, settings) -> None:
    token = token_for(contact)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "a-new-key-" * 6
    assert client.get(f"/unsubscribe/{token}/").status_code == 200


def test_the_link_leads_to_the_public_address(contact, settings) -> None:
    settings.PUBLIC_URL = "https://mail.example.org"
    assert url_for(contact) == f"https://mail.example.org/unsubscribe/{token_for(contact)}/"
