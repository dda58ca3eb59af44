"""The accounts application."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """Users and what they may do."""

    name = "accounts"
