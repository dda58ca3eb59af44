"""A PostgreSQL outside of the stack, with an administrator of its own and a user for the app."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import uuid4

from support import host_releases
from support.backups import names, throw_aways, until
from support.engine import base_image
from support.engine_stack import docker
from support.host_releases import SECRETS, HostReleases, Told

PASSWORD = SECRETS["PGPASSWORD"]

# What a version of the project needs beside the usual, to find the server's port.
SETTINGS = '\nDATABASES["default"]["PORT"] = os.environ["PGPORT"]\n'
VARIABLES = {"PGPORT": {"from": "database.port", "meaning": "Port of the database server."}}


@dataclass
class Server:
    """One, on the address that containers see this machine by."""

    name: str
    address: str
    port: int

    @property
    def variables(self) -> dict[str, Any]:
        """Inputs of role release_bundle that lead there."""
        return {
            "release_bundle_database": "external",
            "release_bundle_database_host": self.address,
            "release_bundle_database_container_port": self.port,
            "release_bundle_database_name": "site",
            "release_bundle_database_user": "site",
        }

    @property
    def place(self) -> str:
        """What messages call it."""
        return f"server {self.address}:{self.port}"

    def sql(self, *statements: str, database: str = "site") -> str:
        """Say something as its administrator."""
        return docker(*self._words(database), *(f"--command={one}" for one in statements)).strip()

    def _words(self, database: str) -> list[str]:
        words = ["psql", "--no-psqlrc", "-At", "--set=ON_ERROR_STOP=1", "--username=postgres", f"--dbname={database}"]
        return ["exec", self.name, *words]

    def fill(self, rows: int) -> None:
        """Have just so many rows."""
        self.sql(
            "TRUNCATE kit_rows",
            f"INSERT INTO kit_rows (text) SELECT md5(i::text) FROM generate_series(1, {rows}) i",  # noqa: S608
        )

    def checksum(self) -> str:
        """Give one hash over every row."""
        return self.sql("SELECT md5(string_agg(id || text, ',' ORDER BY id)) FROM kit_rows")

    def databases(self) -> str:
        """Names of all databases."""
        return self.sql("SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database", database="postgres")

    def drop_kept(self) -> None:
        """Remove what restores have kept."""
        for name in self.databases().split():
            if "_before_" in name:
                self.sql(f'DROP DATABASE "{name}"', database="postgres")

    @contextmanager
    def dump_waits(self, running: subprocess.Popen[bytes]) -> Iterator[None]:
        """Have a backup wait in the midst of its dump, for a table that somebody holds."""
        held = ("BEGIN", "LOCK TABLE kit_rows", "SELECT pg_sleep(600)")
        waiting = "FROM pg_stat_activity WHERE query LIKE 'LOCK TABLE %' AND wait_event_type = 'Lock'"
        words = ["docker", *self._words("site"), *(f"--command={one}" for one in held)]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as holder:
            try:
                until(lambda: self.sql(f"SELECT count(*) {waiting}") != "0", running)
                yield
            finally:
                self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)'")
                holder.wait(timeout=60)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Have it take packets for a while, and answer nothing."""
        docker("pause", self.name)
        try:
            yield
        finally:
            docker("unpause", self.name)


@contextmanager
def server(image: str = "") -> Iterator[Server]:
    """Run one until the block is left; its user for the app may make databases, and no roles.

    Args:
        image: that it runs; default: the environment's own.
    """
    subnet = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Subnet}}").strip()
    # The bridge's own address is the first of its network.
    address = str(next(ip_network(subnet).hosts()))
    name = f"kit-test-external-db-{uuid4().hex[:8]}"
    network = f"{name}-network"
    try:
        docker("network", "create", network)
        docker("run", "--detach", "--pull", "never", "--network", network, "--publish", f"{address}::5432",
               "--name", name, "--env", "POSTGRES_PASSWORD=the-administrators-own",
               image or base_image("postgres"))  # fmt: skip
        port = int(docker("port", name).strip().splitlines()[0].rpartition(":")[2])
        made = Server(name, address, port)
        # The first server that the entry point starts listens to nobody outside.
        docker("exec", name, "sh", "-c", "until pg_isready --quiet --host=127.0.0.1; do sleep 0.1; done")
        made.sql(
            f"CREATE ROLE site LOGIN CREATEDB PASSWORD '{PASSWORD}'",
            "CREATE DATABASE site OWNER site",
            database="postgres",
        )
        yield made
    finally:
        docker("rm", "--force", "--volumes", name)
        docker("network", "rm", network)


@contextmanager
def released(server: Server, scratch: Path, **variables: Any) -> Iterator[HostReleases]:
    """Make a deploy root with one release that uses a server; it is removed in the end.

    Args:
        server: which.
        scratch: folder for it.
        variables: inputs of role release_bundle that differ.
    """
    made = host_releases.make(scratch)
    made.variables = {**server.variables, **variables}
    try:
        told = made.deploy(made.version("one", settings=SETTINGS, further_variables=VARIABLES))
        assert told.code == 0, told.err
        yield made
    finally:
        made.remove()


@contextmanager
def described(host: HostReleases, part: str = "external", /, **changed: Any) -> Iterator[None]:
    """Have the release describe its database, or another part, otherwise for a while."""
    path = (host.root / "current").resolve() / "stack.json"
    before = path.read_text()
    told = json.loads(before)
    told[part].update(changed)
    path.write_text(json.dumps(told))
    try:
        yield
    finally:
        path.write_text(before)


def demand_refused(host: HostReleases, told: Told, before: set[str], *said: str) -> None:
    """It ended with an error that says so, and left nothing but the backups of before."""
    assert told.code != 0
    assert not [one for one in said if one not in told.err], told.err
    assert "Next:" in told.err or "remedy" in told.out, told.err
    assert names(host) == before
    assert throw_aways(host) == []
    assert PASSWORD not in told.out + told.err
