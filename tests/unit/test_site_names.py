"""Names of the site that do not lead to the host are named, quickly, and others are let alone."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest
from kit_control import site_names

KNOWN = {
    "www.example.com": ["192.0.2.1", "2001:db8::1"],
    "other.example.com": ["192.0.2.9"],
    "web1": ["192.0.2.1"],
    "cdn.example.net": ["192.0.2.9"],
    "192.0.2.1": ["192.0.2.1"],
    "127.0.0.1": ["127.0.0.1"],
}


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A name server of our own; gives what it was asked for."""
    names: list[str] = []

    def answer(name: str, *_args: Any, **_options: Any) -> list[tuple[Any, ...]]:
        names.append(name)
        if name.startswith("slow"):
            time.sleep(2)
        if name not in KNOWN:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(0, 0, 0, "", (address, 0)) for address in KNOWN[name]]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return names


@pytest.mark.parametrize(
    ("domains", "places", "said"),
    [
        (["www.example.com"], ["192.0.2.1"], []),
        (["www.example.com"], ["web1"], []),
        (["other.example.com"], ["web1"], ["does not lead to web (192.0.2.1), but to 192.0.2.9. Next: mend it"]),
        (["other.example.com"], ["web1", "cdn.example.net"], []),
        (["gone.example.com"], ["web1"], ["gone.example.com does not lead to web: DNS does not know it (Name or"]),
        (["gone.example.com"], ["127.0.0.1"], ["gone.example.com does not lead to web"]),
        (["other.example.com", "gone.example.com"], ["web1"], ["other.example.com", "gone.example.com"]),
        # Through a tunnel, or by an alias of SSH's own, it is not known where the host is.
        (["other.example.com"], ["127.0.0.1"], []),
        (["other.example.com"], ["alias"], []),
    ],
)
def test_what_leads_elsewhere_or_nowhere_is_named(domains: list[str], places: list[str], said: list[str]) -> None:
    told = site_names.Lookups(domains, places).warnings("web", "mend it")
    assert len(told) == len(said)
    assert all(words in line for words, line in zip(said, told, strict=True))


def test_what_dns_never_knows_is_not_asked_for(asked: list[str]) -> None:
    names = ["site.test", "localhost", "a.localhost", "x.invalid", "a.example", "*.example.com", "192.0.2.7"]
    assert site_names.Lookups(names, ["192.0.2.1"]).warnings("web", "") == []
    assert asked == []


def test_a_slow_name_server_keeps_nobody_waiting() -> None:
    begun = time.monotonic()
    lookups = site_names.Lookups(["slow.example.com", "gone.example.com"], ["slow.example.net"])
    told = lookups.warnings("web", "")
    assert time.monotonic() - begun < site_names.LIMIT_SECONDS + 0.3
    assert [line.split()[0] for line in told] == ["gone.example.com"]
