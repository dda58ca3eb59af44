"""Ports, as this machine sees them: what is published to others answers, and nothing else does."""

from __future__ import annotations

import socket

import pytest

from smoke import site
from smoke.checked import Checked
from smoke.target import DATA_PORTS, LOOPBACK, Published, Target

NO_WAY = "no way leads from here to the host's own ports (smoke_address, smoke_ports)"


def outside_address(target: Target) -> str:
    """Give an address of the host that other machines could use."""
    if target.is_remote:
        return target.address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # A datagram socket that is connected sends nothing; it only shows the way that it would take.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but its loopback")
        return str(probe.getsockname()[0])


@pytest.mark.gate
def test_published_port_answers_where_it_shall(target: Target, checked: Checked, published: Published) -> None:
    seen = target.seen_port(published.port)
    if not published.is_open:
        if not checked.facts["listening"]:
            pytest.skip("the host's kernel does not tell who listens")
        found = {one["address"] for one in checked.facts["listening"] if one["port"] == published.port}
        assert found, f"nobody listens on {published.address}:{published.port}"
        if target.is_remote:
            assert found <= set(LOOPBACK), f"it listens on {', '.join(sorted(found))}; it is for the host alone"
        if seen is not None:
            address = outside_address(target)
            assert not site.answers(address, seen), f"{address}:{seen} answers; it is for the host alone"
        return
    if seen is None:
        pytest.skip(NO_WAY)
    address = target.address if target.is_remote or not published.address else published.address
    assert site.answers(address, seen, site.SECONDS), f"{address}:{seen} does not answer"


def test_data_service_is_not_reachable_from_outside(target: Target, checked: Checked, data_service: str) -> None:
    ports = {DATA_PORTS[data_service]}
    ports |= {port["port"] for one in checked.containers(data_service) for port in one["ports"]}
    project = checked.facts["project"]
    ours = {one["port"] for one in checked.facts["published"] if one["project"] == project}
    # Another project's database, or one of this machine's own, is not this stack's matter.
    ports -= {one["port"] for one in checked.facts["published"]} - ours
    if not target.is_remote:
        ports &= ours
    elif not target.sees_all_ports:
        pytest.skip(NO_WAY)
    address = outside_address(target)
    for port in sorted(ports):
        assert not site.answers(address, port), f"{address}:{port} answers"


def test_nothing_else_answers(target: Target, checked: Checked) -> None:
    if not target.is_remote:
        pytest.skip("the host is this machine, with whatever else it runs")
    if not target.sees_all_ports:
        pytest.skip(NO_WAY)
    allowed = {one.port for one in target.published if one.is_open} | set(target.open_ports)
    # What other Compose projects publish is theirs to answer for.
    allowed |= {one["port"] for one in checked.facts["published"] if one["project"] != checked.facts["project"]}
    listening = {one["port"] for one in checked.facts["listening"] if one["address"] not in LOOPBACK}
    found = [port for port in sorted(listening - allowed) if site.answers(target.address, port)]
    assert not found, f"ports {found} of {target.address} answer; smoke_open_ports lists those that may"
