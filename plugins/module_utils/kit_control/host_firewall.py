"""The firewall of a host: which ports answer, as rules for nftables; everything here is pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from kit_control.errors import KitError

# The word that stands for sshd's own ports, whatever they are on a host.
SSH = "ssh"
HIGHEST = 65535
_PORT = re.compile(r"^(?P<first>\d{1,5})(-(?P<last>\d{1,5}))?(/(?P<protocol>tcp|udp))?$")
# A name of the kernel (at most 15 characters), with `*` for any ending.
_INTERFACE = re.compile(r"^[A-Za-z0-9_.@:-]{1,15}\*?$")

UNIT = """\
# Written by the deployment kit, role host_setup.
[Unit]
Description=Firewall of the deployment kit
DefaultDependencies=no
After=local-fs.target nftables.service
# nftables.service empties everything when it starts, stops or reloads; then this table has to come back.
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service
Wants=network-pre.target
Before=network-pre.target docker.service shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f /etc/kit-firewall.nft
ExecReload=/usr/sbin/nft -f /etc/kit-firewall.nft
ExecStop=-/usr/sbin/nft delete table inet kit_firewall

[Install]
WantedBy=sysinit.target
"""

_RULES = """\
# Written by the deployment kit, role host_setup; another run of it overwrites changes.
# Load it with: systemctl reload kit-firewall
table inet kit_firewall
delete table inet kit_firewall
table inet kit_firewall {{
    chain prerouting {{
        # After connection tracking (-200) and before Docker's DNAT (-100): a published port is judged by the number
        # that was asked for, like any other. Docker's own rules come later and cannot let in what is dropped here.
        type filter hook prerouting priority -150; policy accept;
        ct state established,related accept
{entrances}
        goto outside
    }}

    chain outside {{
        icmp type {{ echo-request, destination-unreachable, time-exceeded, parameter-problem }} accept
        icmpv6 type {{ echo-request, destination-unreachable, packet-too-big, time-exceeded, parameter-problem }} accept
        icmpv6 type {{ nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query }} accept
        udp sport 67 udp dport 68 accept
        ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept
        # Only what is addressed to this host: no way to a container's own address.
{ports}
        drop
    }}
}}
"""


def ports_of(wanted: Iterable[object], ssh_ports: Sequence[int]) -> dict[str, list[str]]:
    """Read the ports that shall answer.

    Args:
        wanted: entries such as ``ssh``, ``443``, ``443/udp``, ``8000-8010``.
        ssh_ports: what ``ssh`` stands for on this host.

    Returns:
        Ports and ranges as nftables writes them, by protocol; each list sorted, without repetition.

    Raises:
        KitError: an entry is none of these.
    """
    found: dict[str, set[tuple[int, int]]] = {"tcp": set(), "udp": set()}
    for entry in wanted:
        if entry == SSH:
            found["tcp"].update((port, port) for port in ssh_ports)
            continue
        match = _PORT.match(str(entry))
        first = int(match["first"]) if match else 0
        last = int(match["last"] or first) if match else 0
        if match is None or not 1 <= first <= last <= HIGHEST:
            raise KitError(
                "inventory",
                f"host_setup_open_ports: {entry!r} is no port.",
                "write such as ssh, 443, 443/udp or 8000-8010, in inventories/<env>/group_vars/all/host_setup.yml",
            )
        found[match["protocol"] or "tcp"].add((first, last))
    return {protocol: _merged(ranges) for protocol, ranges in found.items()}


def rules(wanted: Iterable[object], ssh_ports: Sequence[int], uplinks: Sequence[str], trusted: Sequence[str]) -> str:
    """Write the rules.

    Args:
        wanted: entries as of :func:`ports_of`.
        ssh_ports: what ``ssh`` stands for.
        uplinks: interfaces with a default route; judged even where their name is like a trusted one.
        trusted: interfaces from which everything is let in, ``*`` for any ending.

    Returns:
        A file for ``nft -f``, which replaces the table in one step.

    Raises:
        KitError: an entry is no port, or a name no interface's.
    """
    for name in (*uplinks, *trusted):
        if not _INTERFACE.match(name):
            raise KitError(
                "inventory",
                f"host_setup_trusted_interfaces: {name!r} is no name of an interface.",
                "write such as wg0 or docker*, in inventories/<env>/group_vars/all/host_setup.yml",
            )
    entrances = [f'iifname "{name}" goto outside' for name in dict.fromkeys(uplinks)]
    entrances += [f'iifname "{name}" accept' for name in dict.fromkeys(("lo", *trusted))]
    ports = [
        f"fib daddr type local {protocol} dport {{ {', '.join(numbers)} }} accept"
        for protocol, numbers in ports_of(wanted, ssh_ports).items()
        if numbers
    ]
    return _RULES.format(entrances=_indented(entrances), ports=_indented(ports))


def _merged(ranges: Iterable[tuple[int, int]]) -> list[str]:
    """Join ranges that touch: nftables refuses a set with overlapping ones."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return [str(first) if first == last else f"{first}-{last}" for first, last in joined]


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(f"        {line}" for line in lines)
