"""Hosts for the tests of this folder."""

from testbed.fixtures import fresh_host

from fresh.deployment import deployed

__all__ = ["deployed", "fresh_host"]
