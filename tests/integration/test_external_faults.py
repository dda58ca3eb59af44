"""An external database whose server falls silent midway, and restores into it that are killed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from support import external, host_releases
from support.backups import (
    backed_up,
    limits,
    media,
    media_file,
    names,
    throw_aways,
    unfinished_media,
    until,
    until_step,
)
from support.engine_stack import docker
from support.external import Server, demand_refused, described
from support.host_releases import HostReleases, Told

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# For each program; the time in which an engine that waits for a silent server has to end is some of it.
LIMIT, ENDED_SECONDS = 20, 200
LOADING = "SELECT count(*) FROM pg_stat_activity WHERE datname LIKE 'site\\_new\\_%' AND query LIKE 'COPY %'"
SWAPPED = "SELECT count(*) FROM pg_database WHERE datname LIKE 'site\\_before\\_%'"
UNFINISHED = "SELECT count(*) FROM pg_database WHERE datname LIKE 'site\\_new\\_%'"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The server."""
    with external.server() as made:
        yield made


@pytest.fixture(scope="module")
def host(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostReleases]:
    """A deploy root with one release that uses the server."""
    with external.released(server, tmp_path_factory.mktemp("external")) as made:
        yield made


def two_states(host: HostReleases, server: Server, rows: int) -> str:
    """Have a backup of so many rows and media files that say so, and be at three of them; gives the backup's id."""
    server.drop_kept()
    server.fill(rows)
    media_file(host, "rows.txt", str(rows))
    given = backed_up(host, "--level", "checksum")
    server.fill(3)
    media_file(host, "rows.txt", "3")
    return given


def asked(server: Server, question: str) -> int:
    """Ask the server's administrator for a number."""
    return int(server.sql(question, database="postgres"))


def networks(container: str) -> dict[str, Any]:
    """Networks of a container."""
    told: dict[str, Any] = json.loads(docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", container))
    return told


def outer_network(host: HostReleases) -> str:
    """That by which the app reaches what is outside of the stack."""
    for name in networks(host.containers()["web"][0]):
        if docker("network", "inspect", "--format", "{{.Internal}}", name).strip() == "false":
            return name
    raise AssertionError(networks(host.containers()["web"][0]))


@pytest.mark.parametrize("moment", ["load", "stop", "swap", "swapped"])
def test_a_restore_that_is_killed_leaves_a_database_that_serves(
    host: HostReleases, server: Server, moment: str
) -> None:
    given = two_states(host, server, 400_000)
    with host.started("restore", given, "--confirm", "prod") as running:
        if moment == "load":
            until(lambda: asked(server, LOADING), running)
        elif moment == "swapped":
            until(lambda: asked(server, SWAPPED), running)
        else:
            until_step(running, moment)
        host_releases.kill_group(running, signal.SIGKILL)
        running.communicate(timeout=60)
    if moment == "load":
        # Nothing of it has touched what serves.
        assert (host.ask("/rows"), media(host, "cat", "rows.txt")) == ("3", "3")
    # No client outlives its engine, not even where none comes after it.
    until(lambda: not throw_aways(host, "--filter", "name=-client-"))
    # The next command that changes the host makes it whole.
    told = host.deploy(None)
    assert told.code == 0, told.err
    rows = host.ask("/rows")
    assert rows in {"load": ("3",), "swapped": ("400000",)}.get(moment, ("3", "400000"))
    # Rows and media files are of one backup, whichever.
    assert media(host, "cat", "rows.txt") == rows
    assert not unfinished_media(host)
    told = host.engine("restore", "--json", given, "--confirm", "prod")
    assert told.code == 0, told.err
    assert (host.ask("/rows"), media(host, "cat", "rows.txt")) == ("400000", "400000")
    # Of what was loaded when it was killed nothing is left.
    assert asked(server, UNFINISHED) == 0
    assert throw_aways(host) == []
    server.drop_kept()


def test_a_server_that_falls_silent_in_the_dump_ends_the_backup(host: HostReleases, server: Server) -> None:
    before = names(host)
    with limits(host, timeout_seconds=LIMIT), host.started("backup", "--json") as running:
        with server.dump_waits(running), server.silent():
            out, err = running.communicate(timeout=ENDED_SECONDS)
        told = Told(running.returncode, out.decode(), err.decode())
    said = (f"was given {LIMIT} s", f"{server.place} gives user site no session", "timeout expired")
    demand_refused(host, told, before, *said)
    given = backed_up(host)
    assert names(host) == {*before, given}


def test_packets_that_are_dropped_end_the_backup_long_before_its_limit(host: HostReleases) -> None:
    before, network = names(host), outer_network(host)
    # Of a server that is moved about, the published port is not the same later.
    with external.server() as moved:
        moved.sql("CREATE TABLE kit_rows (id int)", "ALTER TABLE kit_rows OWNER TO site")
        docker("network", "connect", network, moved.name)
        address = networks(moved.name)[network]["IPAddress"]
        with described(host, host=address, port=5432), host.started("backup", "--json") as running:
            with moved.dump_waits(running):
                # The address is nobody's from then on.
                docker("network", "disconnect", network, moved.name)
                out, err = running.communicate(timeout=ENDED_SECONDS)
            told = Told(running.returncode, out.decode(), err.decode())
    demand_refused(host, told, before, f"server {address}:5432 gives user site no session")


@pytest.mark.parametrize("moment", ["load", "swap"])
def test_a_server_that_falls_silent_in_a_restore_loses_nothing(host: HostReleases, server: Server, moment: str) -> None:
    given = two_states(host, server, 400_000)
    words = ("restore", given, "--confirm", "prod")
    with limits(host, timeout_seconds=LIMIT, ready_timeout_seconds=LIMIT), host.started(*words) as running:
        if moment == "load":
            until(lambda: asked(server, LOADING), running)
        else:
            until_step(running, "stop")
        with server.silent():
            err = running.communicate(timeout=ENDED_SECONDS)[1].decode()
    assert running.returncode != 0
    assert f"{server.place} gives user site no session" in err
    assert "Next:" in err
    assert throw_aways(host) == []
    # The next command that changes the host makes it whole.
    told = host.deploy(None)
    assert told.code == 0, told.err
    assert (host.ask("/rows"), media(host, "cat", "rows.txt")) == ("3", "3")
    assert not unfinished_media(host)
    assert host.engine("restore", "--json", given, "--confirm", "prod").code == 0
    assert (host.ask("/rows"), media(host, "cat", "rows.txt")) == ("400000", "400000")
    assert asked(server, UNFINISHED) == 0
    server.drop_kept()


def test_of_a_client_that_is_killed_before_the_swap_nothing_is_left(host: HostReleases, server: Server) -> None:
    given = two_states(host, server, 1000)
    with host.started("restore", given, "--confirm", "prod") as running:
        until_step(running, "stop")
        docker("kill", *throw_aways(host, "--filter", "name=-client-"))
        err = running.communicate(timeout=ENDED_SECONDS)[1].decode()
    assert running.returncode != 0
    assert "No such container" in err
    # The app needs no client.
    assert host.ask("/rows") == "3"
    assert unfinished_media(host)
    told = host.deploy(None)
    assert told.code == 0, told.err
    assert (host.ask("/rows"), media(host, "cat", "rows.txt")) == ("3", "3")
    assert not unfinished_media(host)
    assert throw_aways(host) == []


def test_an_autovacuum_does_not_keep_a_database_from_being_swapped(host: HostReleases, server: Server) -> None:
    given = two_states(host, server, 1000)
    slow = "autovacuum_vacuum_threshold = 0, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1"
    server.sql(
        f"CREATE TABLE vacuumed WITH ({slow}) AS SELECT i FROM generate_series(1, 200000) i",  # noqa: S608 - a constant
        "ALTER TABLE vacuumed OWNER TO site", "UPDATE vacuumed SET i = i + 1",
        "ALTER SYSTEM SET autovacuum_naptime = '1s'", "SELECT pg_reload_conf()",
    )  # fmt: skip
    vacuuming = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'site' AND backend_type = 'autovacuum worker'"
    try:
        with host.started("restore", given, "--confirm", "prod") as running:
            until_step(running, "stop")
            assert asked(server, vacuuming)
            err = running.communicate(timeout=ENDED_SECONDS)[1].decode()
        assert running.returncode == 0, err
        assert host.ask("/rows") == "1000"
    finally:
        server.sql("ALTER SYSTEM RESET autovacuum_naptime", "SELECT pg_reload_conf()", database="postgres")
        server.drop_kept()
