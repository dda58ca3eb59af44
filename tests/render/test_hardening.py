"""Rendered services against docker-bench-security's container table (CIS Docker 1.6.0, section 5; STACK.md 3.1)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kit_control import manifest
from kit_control.context import build
from support.cis import ACCEPTED, RULES, of_service
from support.inventory import settings_of
from support.kit import EXAMPLE, FIXTURE, IMAGES, Rendered, compose_of

CASES = [(env, name) for env in ("dev", "prod") for name in ("db", "web", "worker")]
CASES += [("prod", "redis"), ("prod", "nginx")]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("env", "name"), CASES)
def test_service_keeps_the_rule(env: str, name: str, rule: str, rendered: Rendered) -> None:
    service = compose_of(rendered(env, EXAMPLE))["services"][name]
    assert RULES[rule](of_service(service)) != ((name, rule) in ACCEPTED)


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
