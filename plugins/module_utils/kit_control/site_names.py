"""Whether the site's host names lead to a host, asked of DNS while the host itself is being judged."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterable

# Ends of names that no public DNS knows (RFC 6761).
_NEVER_IN_DNS = ("localhost", "test", "invalid", "example")
# A name server that is well answers in some 0.05 s, and what the host itself is asked takes longer than that.
LIMIT_SECONDS = 1.0


class Lookups:
    """Begins to look names up at once; :meth:`warnings` tells what came out.

    Args:
        domains: of the site; those that DNS never knows, addresses and wildcards are passed over.
        places: addresses or names by which the host is reached from outside, or what stands before it.
    """

    def __init__(self, domains: Iterable[str], places: Iterable[str]) -> None:
        self._domains = [name for name in dict.fromkeys(domains) if _is_public(name)]
        self._places = list(dict.fromkeys(filter(None, places))) if self._domains else []
        self._found: dict[str, set[str]] = {}
        self._unknown: dict[str, str] = {}
        self._end = time.monotonic() + LIMIT_SECONDS
        self._threads = [
            threading.Thread(target=self._look_up, args=(name,), daemon=True)
            for name in dict.fromkeys([*self._domains, *self._places])
        ]
        for thread in self._threads:
            thread.start()

    def warnings(self, host: str, remedy: str) -> list[str]:
        """Say which names do not lead to the host; waits for the rest of the limit at most.

        Args:
            host: its name in the inventory.
            remedy: what to do about one.

        Returns:
            One line for each; nothing of names for which no answer came in time.
        """
        for thread in self._threads:
            thread.join(max(0.0, self._end - time.monotonic()))
        own = {address for place in self._places for address in self._found.get(place, ())}
        # Through a tunnel, or by an alias of SSH's own, it is not known where the host is.
        known = bool(own) and not all(_judged(one, lambda address: address.is_loopback) for one in own)
        told = []
        for name in self._domains:
            found = self._found.get(name, set())
            if name in self._unknown:
                told.append(f"{name} does not lead to {host}: {self._unknown[name]}. Next: {remedy}")
            elif found and known and not found & own:
                there = f"{host} ({', '.join(sorted(own))}), but to {', '.join(sorted(found))}"
                told.append(f"{name} does not lead to {there}. Next: {remedy}")
        return told

    def _look_up(self, name: str) -> None:
        try:
            entries = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            self._found[name] = {str(entry[4][0]) for entry in entries}
        except (OSError, UnicodeError) as error:
            self._unknown[name] = f"DNS does not know it ({getattr(error, 'strerror', None) or error})"


def _is_public(name: str) -> bool:
    if name.startswith("*") or _judged(name, lambda _address: True):
        return False
    return name.rpartition(".")[2].lower() not in _NEVER_IN_DNS


def _judged(text: str, rule: Callable[[ipaddress.IPv4Address | ipaddress.IPv6Address], bool]) -> bool:
    try:
        return rule(ipaddress.ip_address(text))
    except ValueError:
        return False
