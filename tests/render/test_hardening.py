"""Rendered services against docker-bench-security's container table (CIS Docker 1.6.0, section 5; STACK.md 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from kit_control import manifest
from kit_control.context import build
from support.inventory import settings_of
from support.kit import EXAMPLE, FIXTURE, IMAGES, Rendered, compose_of

Service = dict[str, Any]

# Docker's default capabilities; 5.4 allows a container to have these and no others.
DEFAULT_CAPABILITIES = {
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE"),
    *("NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
}
FORBIDDEN_MOUNTS = {"/", "/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr", "/var/run/docker.sock"}


def host_ports(service: Service) -> list[tuple[str, int]]:
    """Published ports as (address, port on the host); no address means every one."""
    published = []
    for entry in service.get("ports", []):
        *address, port, _container = str(entry).rsplit(":", 2)
        published.append((address[0] if address else "0.0.0.0", int(port)))  # noqa: S104 - what Docker takes it for
    return published


def sources(service: Service) -> list[str]:
    """What a service mounts."""
    return [str(volume).split(":")[0] for volume in service.get("volumes", [])]


RULES: dict[str, Callable[[Service], bool]] = {
    "5.2 5.3 5.26 no new privileges": lambda s: "no-new-privileges:true" in s["security_opt"],
    "5.4 capabilities": lambda s: s["cap_drop"] == ["ALL"] and set(s.get("cap_add", [])) <= DEFAULT_CAPABILITIES,
    "5.5 5.10 5.16 5.17 5.21 5.31 no host namespaces": lambda s: (
        not ({"privileged", "network_mode", "pid", "ipc", "uts", "userns_mode"} & set(s))
    ),
    "5.6 5.32 no system folders": lambda s: not (set(sources(s)) & FORBIDDEN_MOUNTS),
    "5.8 no port under 1025": lambda s: all(port > 1024 for _address, port in host_ports(s)),
    "5.9 5.14 no port on every address": lambda s: all(address == "127.0.0.1" for address, _port in host_ports(s)),
    "5.11 memory limit": lambda s: bool(s.get("mem_limit")),
    "5.12 CPU limit": lambda s: bool(s.get("cpus")),
    "5.13 read-only root": lambda s: s.get("read_only") is True,
    "5.15 restart policy": lambda s: s["restart"] == "unless-stopped",
    "5.20 no shared propagation": lambda s: not any("shared" in str(volume) for volume in s.get("volumes", [])),
    "5.22 5.25 seccomp and cgroup as given": lambda s: (
        "cgroup_parent" not in s and not any("unconfined" in str(option) for option in s["security_opt"])
    ),
    "5.27 health check": lambda s: bool(s["healthcheck"]["test"]),
    "5.29 process limit": lambda s: s.get("pids_limit", 0) > 0,
    "log rotation": lambda s: s["logging"]["options"].keys() >= {"max-size", "max-file"},
    "open file limit": lambda s: s["ulimits"]["nofile"] > 0,
}
# Which rule a service may break, and why.
ACCEPTED = {
    ("nginx", "5.8 no port under 1025"): "the site's own ports are 80 and 443",
    (
        "nginx",
        "5.9 5.14 no port on every address",
    ): "the site is there to be reached; release_bundle_edge_address narrows it",
}
CASES = [(env, name) for env in ("dev", "prod") for name in ("db", "web", "worker")]
CASES += [("prod", "redis"), ("prod", "nginx")]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("env", "name"), CASES)
def test_service_keeps_the_rule(env: str, name: str, rule: str, rendered: Rendered) -> None:
    service = compose_of(rendered(env, EXAMPLE))["services"][name]
    assert RULES[rule](service) != ((name, rule) in ACCEPTED)


@pytest.mark.parametrize("env", ["dev", "prod"])
def test_no_service_escapes_the_table(env: str, rendered: Rendered) -> None:
    assert {name for e, name in CASES if e == env} == set(compose_of(rendered(env))["services"])


def test_prod_data_services_have_no_route_out_and_no_port(rendered: Rendered) -> None:
    compose = compose_of(rendered("prod"))
    for name in ("db", "redis"):
        service = compose["services"][name]
        assert [compose["networks"][key]["internal"] for key in service["networks"]] == [True]
        assert "ports" not in service
    assert not any(compose["networks"][key].get("internal") for key in compose["services"]["nginx"]["networks"])


def test_only_nginx_publishes_ports_in_prod(rendered: Rendered) -> None:
    services = compose_of(rendered("prod"))["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["nginx"]


def test_prod_secrets_reach_the_app_as_files_alone(rendered: Rendered) -> None:
    bundle = rendered("prod")
    for path in (bundle / ".env.prod", bundle / "docker-compose.prod.yml", bundle / "stack.json"):
        assert "<secret:" not in path.read_text()
    assert {path.stat().st_mode & 0o777 for path in (bundle / "secrets").iterdir()} == {0o600}
    assert (bundle / "secrets").stat().st_mode & 0o777 == 0o700
    assert (bundle / ".env.prod").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("env", ["local", "dev", "prod"])
def test_two_projects_on_one_host_share_nothing(env: str, rendered: Rendered) -> None:
    names = []
    for project in (EXAMPLE, FIXTURE):
        compose = compose_of(rendered(env, project))
        resources = [*compose.get("volumes", {}).values(), *compose.get("networks", {}).values()]
        names.append({compose["name"], *(resource["name"] for resource in resources)})
    assert not names[0] & names[1]


@pytest.mark.parametrize("env", ["local", "dev", "prod"])
def test_grace_period_is_longer_than_gunicorn_and_nginx_wait(env: str, rendered: Rendered) -> None:
    web = compose_of(rendered(env))["services"]["web"]
    graceful = int(web.get("environment", {}).get("KIT_WEB_TIMEOUT", 0))
    assert int(web["stop_grace_period"].removesuffix("s")) > graceful


@pytest.mark.parametrize("seconds", [30, 600])
def test_each_waits_longer_than_the_one_before_it(seconds: int) -> None:
    project = manifest.load(FIXTURE)
    data = {**project.data, "nginx": {**project.data["nginx"], "read_timeout_seconds": seconds}}
    web = build(replace(project, data=data), settings_of("prod", {}), "prod", IMAGES).context["services"]["web"]
    assert web["stop_grace_seconds"] > int(web["environment"]["KIT_WEB_TIMEOUT"]) > seconds
