"""Which ports Docker says are taken, and whether they stand in the way."""

from __future__ import annotations

import pytest
from kit_engine import ports

EVERY = "0.0.0.0"  # noqa: S104 - read, not bound


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", set()),
        ("5432/tcp", set()),
        ("0.0.0.0:8000->8000/tcp, :::8000->8000/tcp", {(EVERY, 8000), ("::", 8000)}),
        ("127.0.0.1:8000-8001->80-81/tcp, 5432/tcp", {("127.0.0.1", 8000), ("127.0.0.1", 8001)}),
        ("[::1]:53->53/tcp, 0.0.0.0:53->53/udp", {("::1", 53)}),
    ],
)
def test_tcp_ports_of_the_host_are_read(text: str, expected: set[tuple[str, int]]) -> None:
    assert ports.host_ports(text) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        (EVERY, "127.0.0.1", True),
        ("::", "127.0.0.1", True),
        ("192.0.2.7", "127.0.0.1", False),
        ("192.0.2.7", "", True),
    ],
)
def test_another_address_does_not_stand_in_the_way(one: str, other: str, expected: bool) -> None:
    assert ports.same_address(one, other) is expected
