"""A PostgreSQL outside of the stack, with an administrator of its own and a user for the app."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any
from uuid import uuid4

from support.engine import base_image
from support.engine_stack import docker
from support.host_releases import SECRETS

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

    def sql(self, *statements: str, database: str = "site") -> str:
        """Say something as its administrator."""
        words = ["psql", "--no-psqlrc", "-At", "--set=ON_ERROR_STOP=1", "--username=postgres", f"--dbname={database}"]
        return docker("exec", self.name, *words, *(f"--command={one}" for one in statements)).strip()

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


@contextmanager
def server(rights: str = "CREATEDB") -> Iterator[Server]:
    """Run one until the block is left.

    Args:
        rights: of the app's user, who owns its database.
    """
    subnet = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Subnet}}").strip()
    # The bridge's own address is the first of its network.
    address = str(next(ip_network(subnet).hosts()))
    name = f"kit-test-external-db-{uuid4().hex[:8]}"
    network = f"{name}-network"
    try:
        docker("network", "create", network)
        docker("run", "--detach", "--pull", "never", "--network", network, "--publish", f"{address}::5432",
               "--name", name, "--env", "POSTGRES_PASSWORD=the-administrators-own", base_image("postgres"))  # fmt: skip
        port = int(docker("port", name).strip().splitlines()[0].rpartition(":")[2])
        made = Server(name, address, port)
        # The first server that the entry point starts listens to nobody outside.
        docker("exec", name, "sh", "-c", "until pg_isready --quiet --host=127.0.0.1; do sleep 0.1; done")
        made.sql(
            f"CREATE ROLE site LOGIN {rights} PASSWORD '{SECRETS['PGPASSWORD']}'",
            "CREATE DATABASE site OWNER site",
            database="postgres",
        )
        yield made
    finally:
        docker("rm", "--force", "--volumes", name)
        docker("network", "rm", network)
