"""PostgreSQL and Redis that somebody else runs: the stack has no container of its own for them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from uuid import uuid4

import pytest
from support import host_releases, traffic
from support.engine import base_image
from support.engine_stack import docker
from support.host_releases import SECRETS, HostReleases

pytestmark = [pytest.mark.engine, pytest.mark.slow]

REDIS_PASSWORD = "canary-external-redis"  # noqa: S105 - a stand-in
SETTINGS = """

import socket
from urllib.parse import urlsplit

DATABASES["default"]["PORT"] = os.environ["PGPORT"]
CACHE_URL = os.environ.get("CACHE_URL") or Path(os.environ["CACHE_URL_FILE"]).read_text()


def cache(_request):
    url = urlsplit(CACHE_URL)
    with socket.create_connection((url.hostname, url.port), timeout=5) as server:
        server.sendall(f"AUTH {url.password}\\r\\nPING\\r\\n".encode())
        time.sleep(0.2)
        return HttpResponse(server.recv(1000).decode().replace("\\r\\n", " "))


urlpatterns += [path("cache", cache)]
"""


@dataclass
class Servers:
    """A PostgreSQL and a Redis outside of the stack, on the address that containers see this machine by."""

    address: str
    database_port: int
    cache_port: int


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Both, removed in the end."""
    subnet = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Subnet}}").strip()
    # The bridge's own address is the first of its network.
    address = str(next(ip_network(subnet).hosts()))
    tag = uuid4().hex[:8]
    names = {"postgres": f"kit-test-external-db-{tag}", "redis": f"kit-test-external-redis-{tag}"}
    run = ["run", "--detach", "--pull", "never", "--publish"]
    try:
        docker(*run, f"{address}::5432", "--name", names["postgres"], "--env", "POSTGRES_DB=site",
               "--env", "POSTGRES_USER=site", "--env", f"POSTGRES_PASSWORD={SECRETS['PGPASSWORD']}",
               base_image("postgres"))  # fmt: skip
        docker(*run, f"{address}::6379", "--name", names["redis"], base_image("redis"), "redis-server",
               "--requirepass", REDIS_PASSWORD)  # fmt: skip
        ports = {
            kind: int(docker("port", name).strip().splitlines()[0].rpartition(":")[2]) for kind, name in names.items()
        }
        yield Servers(address, ports["postgres"], ports["redis"])
    finally:
        docker("rm", "--force", "--volumes", *names.values())


@pytest.fixture(scope="module")
def host(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostReleases]:
    """A deploy root; what is released into it uses both."""
    made = host_releases.make(tmp_path_factory.mktemp("external"))
    made.variables = {
        "release_bundle_database": "external",
        "release_bundle_database_host": servers.address,
        "release_bundle_database_container_port": servers.database_port,
        "release_bundle_database_name": "site",
        "release_bundle_database_user": "site",
        "release_bundle_cache": "external",
        "release_bundle_cache_host": servers.address,
        "release_bundle_cache_port": servers.cache_port,
        "release_bundle_secret_values": {**SECRETS, "REDIS_PASSWORD": REDIS_PASSWORD},
    }
    try:
        yield made
    finally:
        made.remove()


def test_a_stack_without_servers_of_its_own_serves_and_is_replaced_without_a_gap(host: HostReleases) -> None:
    project = {"services": {"cache": True}}
    variables = {
        "CACHE_URL": {"secret": True, "from": "cache.url", "meaning": "Cache."},
        "PGPORT": {"from": "database.port", "meaning": "Port of the database server."},
    }
    told = host.deploy(host.version("one", settings=SETTINGS, manifest=project, further_variables=variables))
    assert told.code == 0, told.err
    assert sorted(host.containers()) == ["nginx", "web"]
    assert host.ask("/up").startswith("migrations:")
    assert host.ask("/cache") == "+OK +PONG"

    version = host.version("two", settings=SETTINGS, manifest=project, further_variables=variables)
    with host.traffic().running() as load:
        time.sleep(0.5)
        told = host.deploy(version, backup=True)
        assert told.code == 0, told.err
        time.sleep(0.5)
    assert traffic.summary(load.requests).failed == ()
    assert host.ask("/version") == "two"
    assert host.record(host.current)["backup"]["level"] == "restore"
