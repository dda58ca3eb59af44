"""The project: settings, addresses and what all its applications share."""

__version__ = "1.0.0"
