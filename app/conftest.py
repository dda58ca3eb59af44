"""Fixtures for all applications. The tests need a PostgreSQL 16, named by the DATABASE_* variables."""

import os
from collections.abc import Callable
from pathlib import Path

import django
import pytest

# Values that carry no meaning in a test; what the caller has set wins. The database has no default: a test run that
# guessed one could meet somebody's data.
for _name, _value in {
    "DJANGO_ENV": "local",
    "DJANGO_SETTINGS_MODULE": "config.settings",
    "SECRET_KEY": "tests-only-secret-key-of-more-than-fifty-characters-0123456789",
    "JWT_SIGNING_KEY": "tests-only-signing-key-of-more-than-fifty-characters-9876543210",
}.items():
    if f"{_name}_FILE" not in os.environ:
        os.environ.setdefault(_name, _value)
# Here, not by pytest-django's ini option: that reads the settings before this file has set the values above.
django.setup()


@pytest.fixture(autouse=True)
def _own_places(settings, tmp_path: Path) -> None:
    """Give each test its own uploads, an empty cache (it holds the throttles' counts), and a quick password hash."""
    from django.core.cache import cache

    settings.MEDIA_ROOT = tmp_path / "media"
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    cache.clear()


@pytest.fixture
def user_with(db) -> Callable:
    """A function that makes a user with the roles given."""
    from accounts.models import User
    from accounts.services import assign_roles

    def make(*roles: str, **fields) -> User:
        name = fields.pop("username", "-".join(roles) or "nobody")
        user = User.objects.create_user(name, f"{name}@example.com", "a-long-test-password", **fields)
        assign_roles(user=user, roles=roles)
        return user

    return make


@pytest.fixture
def client_with(user_with) -> Callable:
    """A function that makes an API client signed in as a new user with the roles given."""
    from rest_framework.test import APIClient
    from rest_framework_simplejwt.tokens import AccessToken

    def make(*roles: str) -> APIClient:
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {AccessToken.for_user(user_with(*roles))}")
        return client

    return make


@pytest.fixture
def draft(db) -> Callable:
    """A function that makes a draft to a new list of so many contacts."""
    from campaigns.models import Campaign, Contact, ContactList, MessageTemplate

    def make(size: int = 3):
        members = Contact.objects.bulk_create(
            Contact(email=f"reader{number}@example.com", first_name=f"Reader {number}") for number in range(size)
        )
        contact_list = ContactList.objects.create(name="Readers")
        contact_list.contacts.set(members)
        template = MessageTemplate.objects.create(
            name="News",
            subject="Hello {{ first_name }}",
            text_body="Dear {{ first_name }}, leave: {{ unsubscribe_url }}",
            html_body="<p>Dear {{ first_name }}</p><a href='{{ unsubscribe_url }}'>leave</a>",
        )
        return Campaign.objects.create(name="First", contact_list=contact_list, template=template)

    return make
