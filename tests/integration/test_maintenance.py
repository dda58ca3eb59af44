"""Maintenance on the real engine: who gets the page, what goes on, and what it outlasts. In the order of the file."""

from __future__ import annotations

import json
import subprocess
import time
from http.client import HTTPResponse
from typing import Any

import pytest
from support import site
from support.engine_stack import SmallStack, docker
from support.host_releases import DOMAIN, HostReleases, Told

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def go(host: HostReleases, *words: str) -> Told:
    """Go in or out."""
    return host.engine("maintenance", *words, "--json")


def ask(host: HostReleases, path: str, **request: Any) -> tuple[HTTPResponse, bytes]:
    """Ask the site over TLS."""
    return site.ask(host.https_port, path, host=DOMAIN, **request)


def is_closed(host: HostReleases) -> bool:
    """Whether a visitor gets the page."""
    answer, body = ask(host, "/version")
    assert (answer.status, b"<title>Back soon" in body) in ((200, False), (503, True))
    return answer.status == 503


def nginx(host: HostReleases) -> tuple[str, str]:
    """Id of nginx's container, and when it was started."""
    (container,) = host.containers()["nginx"]
    return container, docker("inspect", "--format", "{{.State.StartedAt}}", container)


def own_address(host: HostReleases) -> str:
    """This machine's address, as nginx sees it."""
    ask(host, "/own-address")
    said = subprocess.run(
        ["docker", "logs", "--tail", "50", nginx(host)[0]], capture_output=True, text=True, check=True
    )
    rows = [json.loads(line) for line in said.stdout.splitlines() if line.startswith("{")]
    return str(rows[-1]["remote"])


def test_visitors_get_a_page_and_programs_are_told_when_to_come_again(host: HostReleases) -> None:
    rows, before = host.ask("/rows"), nginx(host)
    told = go(host, "on")
    assert told.code == 0, told.err
    assert told.json["changed"] is True
    for request in ({}, {"method": "POST", "body": "text=lost"}):
        answer, body = ask(host, "/add", **request)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "300")
        assert b"We will be back soon" in body
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.headers.get_all("Cache-Control") == ["no-store"]
        assert answer.headers.get_all("X-Frame-Options") == ["DENY"]
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "://" not in body.decode()
    # Asked for by its own name, it is not there.
    assert ask(host, "/kit-maintenance.html")[0].status == 404
    assert host.ask("/up").startswith("migrations")
    assert ask(host, "/static/nowhere.css")[0].status == 404
    assert ask(host, "/media/nowhere")[0].status == 503
    assert site.ask(host.http_port, "/.well-known/acme-challenge/token", host=DOMAIN, tls=False)[1] == b"proof"
    assert nginx(host) == before
    again = go(host, "on")
    assert (again.code, again.json["changed"]) == (0, False)
    assert go(host, "off").code == 0
    assert host.ask("/rows") == rows
    assert go(host, "on").code == 0


def test_status_tells(host: HostReleases) -> None:
    told = host.engine("status", "--json").json
    assert told["ready"] is True
    assert (told["maintenance"]["allow"], told["maintenance"]["retry_after_seconds"]) == ([], 300)
    assert "  maintenance  on since" in host.engine("status").out


def test_it_outlasts_a_reload_and_a_restart(host: HostReleases) -> None:
    container, _ = nginx(host)
    docker("kill", "--signal", "HUP", container)
    time.sleep(1)
    assert is_closed(host)
    docker("restart", container)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            assert is_closed(host)
            break
        except OSError:
            time.sleep(0.2)
    assert is_closed(host)


def test_a_deploy_and_a_rollback_work_inside_it(host: HostReleases) -> None:
    before = nginx(host)
    told = host.deploy(host.version("two"), backup=True)
    assert told.code == 0, told.err
    assert is_closed(host)
    assert host.ask("/up").startswith("migrations")
    # Another set of nginx's files is taken by a reload, and knows it as well.
    told = host.deploy(host.version("slower", variables={"release_bundle_rate_limit_burst": 7}))
    assert told.code == 0, told.err
    assert is_closed(host)
    assert host.rollback().code == 0
    assert is_closed(host)
    assert nginx(host) == before


def test_an_address_that_is_let_in_sees_the_site(host: HostReleases) -> None:
    before, mine = nginx(host), own_address(host)
    told = go(host, "on", "--allow", f"192.0.2.7,{mine}", "--retry-after", "60")
    assert told.code == 0, told.err
    assert told.json["maintenance"]["allow"] == ["192.0.2.7", mine]
    assert host.ask("/version") == "two"
    told = go(host, "on", "--allow", "192.0.2.7,2001:db8::/32", "--retry-after", "60")
    assert told.code == 0, told.err
    assert ask(host, "/version")[0].headers["Retry-After"] == "60"
    assert nginx(host) == before


def test_what_is_no_address_is_refused_and_nothing_is_changed(host: HostReleases) -> None:
    before = host.engine("status", "--json").json["maintenance"]
    told = go(host, "on", "--allow", "192.0.2.7,192.0.2.300")
    assert (told.code, told.json["code"]) == (2, "usage")
    assert "192.0.2.300" in told.json["problem"]
    assert go(host, "on", "--retry-after", "0").code == 2
    assert host.engine("status", "--json").json["maintenance"] == before
    assert is_closed(host)


def test_out_again(host: HostReleases) -> None:
    before = nginx(host)
    told = go(host, "off")
    assert (told.code, told.json["changed"], told.json["maintenance"]) == (0, True, None)
    assert host.ask("/version") == "two"
    assert go(host, "off").json["changed"] is False
    assert nginx(host) == before


def test_a_stack_without_nginx_says_what_to_do(running: SmallStack) -> None:
    told = running.run("maintenance", "on", "--json")
    assert (told.code, told.json["code"]) == (2, "usage")
    assert "no nginx" in told.json["problem"]
    assert "make down" in told.json["next"]
