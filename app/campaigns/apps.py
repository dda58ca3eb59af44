"""The campaigns application."""

from django.apps import AppConfig


class CampaignsConfig(AppConfig):
    """Contacts, templates, campaigns and their deliveries."""

    name = "campaigns"
