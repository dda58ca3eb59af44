"""Backups of an external database whose server wants TLS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kit_engine.stack import EXTERNAL_SECRETS
from support import database_tls, external
from support.backups import backed_up, manifest_of, names, throw_aways
from support.database_tls import Authority
from support.external import Server, demand_refused, described
from support.host_releases import HostReleases

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """An image of PostgreSQL that can do TLS."""
    with database_tls.image() as made:
        yield made


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signed the server's certificate."""
    return Authority(tmp_path_factory.mktemp("authority") / "own")


@pytest.fixture(scope="module")
def server(image: str, authority: Authority) -> Iterator[Server]:
    """The server; whoever comes without TLS is sent away."""
    with external.server(image) as made:
        authority.install(made, f"IP:{made.address}")
        yield made


@pytest.fixture(scope="module")
def host(
    server: Server, image: str, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HostReleases]:
    """A deploy root with one release that uses the server, and knows who signed its certificate."""
    variables = {
        "release_bundle_database_sslmode": "verify-full",
        "release_bundle_database_root_certificate": authority.certificate,
    }
    with (
        external.released(server, tmp_path_factory.mktemp("external"), **variables) as made,
        described(made, image=image),
    ):
        yield made


@contextmanager
def trusted(host: HostReleases, certificate: str) -> Iterator[None]:
    """Have the release trust another authority for a while."""
    path: Path = (host.root / "current").resolve() / "secrets" / EXTERNAL_SECRETS
    before = path.read_text()
    path.write_text(json.dumps({**json.loads(before), "root_certificate": certificate}))
    try:
        yield
    finally:
        path.write_text(before)


def test_rows_come_back_over_tls(host: HostReleases, server: Server) -> None:
    server.fill(1000)
    given, checksum = backed_up(host), server.checksum()
    assert manifest_of(host, given)["level"] == "restore"
    server.fill(7)
    told = host.engine("restore", "--json", given, "--confirm", "prod")
    assert told.code == 0, told.err
    assert host.ask("/rows") == "1000"
    assert server.checksum() == checksum
    assert throw_aways(host) == []
    server.drop_kept()


def test_a_server_that_is_not_who_it_should_be_is_told_no_password(
    host: HostReleases, server: Server, authority: Authority, tmp_path: Path
) -> None:
    before, refused = names(host), f"{server.place} does not let user site into database site"
    with trusted(host, Authority(tmp_path / "another").certificate):
        demand_refused(host, host.engine("backup", "--json"), before, refused, "certificate verify failed")
    authority.install(server, "DNS:another.test")
    try:
        told = host.engine("backup", "--json")
    finally:
        authority.install(server, f"IP:{server.address}")
    demand_refused(host, told, before, refused, "does not match host name")
    given = backed_up(host)
    assert names(host) == {*before, given}


def test_who_is_to_come_without_tls_is_told_what_the_server_says(host: HostReleases, server: Server) -> None:
    before = names(host)
    with described(host, sslmode="disable"):
        told = host.engine("backup", "--json")
    demand_refused(host, told, before, f"{server.place} does not let user site", "no encryption")
