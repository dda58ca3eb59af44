"""Containers: there, healthy, of the expected image, and bounded as the rendered Compose file says."""

from __future__ import annotations

import re

import pytest
from support.cis import ACCEPTED, RULES, of_facts, of_service

from smoke.checked import Checked
from smoke.remote import NoAnswer
from smoke.target import Target

SIZES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}
# A log is rotated between two writes, and the newest part may lie uncompressed beside its copy.
ROTATION_SLACK = 1.2


@pytest.mark.gate
def test_host_tells_its_facts(target: Target, checked: Checked) -> None:
    try:
        told = checked.told[1]
    except NoAnswer as error:
        pytest.fail(str(error))
    assert told["project"] == target.stack["project"], f"it holds {told['project']}, not {target.stack['project']}"


@pytest.mark.gate
def test_host_has_the_release_that_was_rendered_here(target: Target, checked: Checked) -> None:
    wanted = target.expected_hashes()
    others = sorted(name for name, value in checked.facts["files"].items() if wanted.get(name) != value)
    assert not others, f"{', '.join(others)} on the host differ from {target.bundle}: make deploy ENV={target.env}"


@pytest.mark.gate
def test_nginx_has_the_files_that_were_rendered_here(target: Target, checked: Checked) -> None:
    if not target.has_edge:
        pytest.skip("there is no nginx in this environment")
    assert checked.facts["nginx"] == target.expected_nginx(), "shared/nginx/conf/current differs from what was rendered"


@pytest.mark.gate
def test_service_is_healthy(target: Target, checked: Checked, service: str) -> None:
    wanted = int(target.compose["services"][service].get("scale", 1))
    found = [one for one in checked.facts["containers"] if one["service"] == service]
    assert len(found) == wanted, f"{len(found)} containers, {wanted} wanted"
    for one in found:
        assert one["state"] == "running", f"{one['name']} is {one['state']} (exit code {one['exit_code']})"
        assert one["health"] == "healthy", f"{one['name']} is {one['health'] or 'without a health check'}"


@pytest.mark.gate
def test_service_runs_the_expected_image(target: Target, checked: Checked, service: str) -> None:
    wanted = target.compose["services"][service]["image"]
    for one in checked.containers(service):
        assert one["reference"] == wanted, f"{one['name']} was made from {one['reference']}, not {wanted}"
        now = checked.facts["images"][wanted]
        assert one["image"] == now, (
            f"{wanted} names another image than {one['name']} runs: {now[:19]}, {one['image'][:19]}"
        )


@pytest.mark.gate
def test_service_publishes_what_was_rendered(target: Target, checked: Checked, service: str) -> None:
    wanted = {(one.address, one.port, one.inside) for one in target.published if one.service == service}
    for one in checked.containers(service):
        found = {(port["address"], port["port"], int(port["inside"].partition("/")[0])) for port in one["ports"]}
        extra = ", ".join(f"{address or '*'}:{port}" for address, port, _inside in sorted(found - wanted))
        assert not extra, f"{one['name']} publishes {extra}, which the rendered file does not"
        assert found == wanted, f"{one['name']} does not publish {sorted(wanted - found)}"


def test_service_is_on_its_networks(target: Target, checked: Checked, service: str) -> None:
    declared = target.compose.get("networks", {})
    keys = target.compose["services"][service].get("networks", ["default"])
    wanted = {declared.get(key, {}).get("name", f"{target.stack['project']}_{key}"): key for key in keys}
    for one in checked.containers(service):
        assert set(one["networks"]) == set(wanted), f"{one['name']} is on {', '.join(one['networks'])}"
    for name, key in wanted.items():
        internal = bool(declared.get(key, {}).get("internal"))
        assert checked.facts["networks"][name]["internal"] == internal, (
            f"{name} has {'a' if internal else 'no'} way out"
        )


def test_service_is_not_root(checked: Checked, service: str) -> None:
    for one in checked.containers(service):
        if one["state"] == "running" and not one["processes"]:
            pytest.skip("the engine's processes cannot be seen from the host")
        roots = sorted({process["name"] for process in one["processes"] if process["uid"] == 0})
        assert not roots, f"{', '.join(roots)} in {one['name']} run as root"


def test_service_has_no_capabilities(checked: Checked, service: str) -> None:
    for one in checked.containers(service):
        if one["state"] == "running" and not one["processes"]:
            pytest.skip("the engine's processes cannot be seen from the host")
        strong = sorted({process["name"] for process in one["processes"] if int(process["capabilities"], 16)})
        assert not strong, f"{', '.join(strong)} in {one['name']} have capabilities"


def test_service_keeps_the_rule(target: Target, checked: Checked, rule: tuple[str, str]) -> None:
    service, name = rule
    if (service, name) in ACCEPTED:
        pytest.skip(ACCEPTED[service, name])
    if not RULES[name](of_service(target.compose["services"][service])):
        pytest.skip("the rendered file does not ask for it here")
    for one in checked.containers(service):
        assert RULES[name](of_facts(one)), f"{one['name']} breaks it, though the rendered file does not"


def test_log_rotates(target: Target, checked: Checked, service: str) -> None:
    wanted = {key: str(value) for key, value in target.compose["services"][service]["logging"]["options"].items()}
    for one in checked.containers(service):
        found = one["log"]["options"]
        assert found == wanted, f"{one['name']} has {found or 'no rotation'}"
        number, unit = re.fullmatch(r"(\d+)([kmg]?)", found["max-size"]).groups()  # type: ignore[union-attr]
        most = int(number) * SIZES[unit] * int(found["max-file"])
        size = one["log"]["bytes"]
        assert size is None or size <= most * ROTATION_SLACK, (
            f"{one['name']} has {size} bytes of logs; {most} are allowed"
        )
