"""What DNS knows: whether the site's names lead to a host, asked while that is judged, and which hosts are one."""

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


class Answers:
    """Begins to look names up at once.

    Args:
        names: which.

    Attributes:
        found: the addresses of each name that has some; filled while :meth:`wait` waits.
        unknown: what DNS said of each that has none.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.found: dict[str, set[str]] = {}
        self.unknown: dict[str, str] = {}
        self._end = time.monotonic() + LIMIT_SECONDS
        self._threads = [
            threading.Thread(target=self._look_up, args=(name,), daemon=True) for name in dict.fromkeys(names)
        ]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Wait for the rest of the limit at most; what has not answered by then counts as never asked."""
        for thread in self._threads:
            thread.join(max(0.0, self._end - time.monotonic()))

    def _look_up(self, name: str) -> None:
        try:
            entries = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            self.found[name] = {str(entry[4][0]) for entry in entries}
        except (OSError, UnicodeError) as error:
            self.unknown[name] = f"DNS does not know it ({getattr(error, 'strerror', None) or error})"


class Lookups:
    """Begins to look the site's names up at once; :meth:`warnings` tells what came out.

    Args:
        domains: of the site; those that DNS never knows, addresses and wildcards are passed over.
        places: addresses or names by which the host is reached from outside, or what stands before it.
    """

    def __init__(self, domains: Iterable[str], places: Iterable[str]) -> None:
        self._domains = [name for name in dict.fromkeys(domains) if _is_public(name)]
        self._places = list(filter(None, places)) if self._domains else []
        self._answers = Answers([*self._domains, *self._places])

    def warnings(self, host: str, remedy: str) -> list[str]:
        """Say which names do not lead to the host.

        Args:
            host: its name in the inventory.
            remedy: what to do about one.

        Returns:
            One line for each; nothing of names for which no answer came in time.
        """
        self._answers.wait()
        found, unknown = self._answers.found, self._answers.unknown
        own = {address for place in self._places for address in found.get(place, ())}
        # Through a tunnel, or by an alias of SSH's own, it is not known where the host is.
        known = bool(own) and not all(_judged(one, lambda address: address.is_loopback) for one in own)
        told = []
        for name in self._domains:
            there = found.get(name, set())
            if name in unknown:
                told.append(f"{name} does not lead to {host}: {unknown[name]}. Next: {remedy}")
            elif there and known and not there & own:
                text = f"{host} ({', '.join(sorted(own))}), but to {', '.join(sorted(there))}"
                told.append(f"{name} does not lead to {text}. Next: {remedy}")
        return told


def one_address(names: Iterable[str]) -> dict[str, str]:
    """Give one address for each name, so that names of one machine are seen to be that.

    Args:
        names: addresses too.

    Returns:
        The name itself where it has none, such as an alias of SSH's own.
    """
    wanted = list(names)
    answers = Answers([name for name in wanted if not _judged(name, lambda _address: True)])
    answers.wait()
    # 127.0.0.1 before ::1, as those who write an address write the shorter one.
    return {name: min(answers.found.get(name) or {name}, key=lambda one: (":" in one, one)) for name in wanted}


def _is_public(name: str) -> bool:
    if name.startswith("*") or _judged(name, lambda _address: True):
        return False
    return name.rpartition(".")[2].lower() not in _NEVER_IN_DNS


def _judged(text: str, rule: Callable[[ipaddress.IPv4Address | ipaddress.IPv6Address], bool]) -> bool:
    try:
        return rule(ipaddress.ip_address(text))
    except ValueError:
        return False
