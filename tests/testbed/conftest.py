"""Hosts for the test bed's own tests."""

from testbed.fixtures import fresh_host

__all__ = ["fresh_host"]
