"""The health application."""

from django.apps import AppConfig


class HealthConfig(AppConfig):
    """Tells probes whether this process lives and whether it may get traffic."""

    name = "health"
