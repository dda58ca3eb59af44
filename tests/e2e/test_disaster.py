"""A prod host that is lost with all its data, and another one that docs/DISASTER.md brings to where it was."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from fresh.documented import commands
from support import checkout
from support.checkout import Checkout
from support.kit import EXAMPLE
from support.kit import ROOT as KIT
from support.prod_story import PROJECT, ROOT
from testbed.fixtures import distros
from testbed.hosts import Host, borrowed
from testbed.project import inventory_variables

pytestmark = [pytest.mark.host, pytest.mark.slow]

BACKUPS = f"{ROOT}/shared/backups"
PAGE = KIT / "docs/DISASTER.md"
# From the first command to a site that serves, on a machine with other work.
DISASTER_SECONDS = 900


def in_database(host: Host, statement: str) -> str:
    """Ask the database, as its owner."""
    label = f"label=com.docker.compose.project={PROJECT.replace('_', '-')}-prod"
    found = f"$(sudo docker ps --quiet --filter {label} --filter label=com.docker.compose.service=db)"
    asked = f'psql --no-psqlrc -At -U "$POSTGRES_USER" -d "$POSTGRES_DB" -c {shlex.quote(statement)}'
    return host.run(f"sudo docker exec {found} sh -c {shlex.quote(asked)}").stdout.strip()


def test_a_lost_host_comes_back_from_a_copy_of_a_backup(tmp_path: Path) -> None:
    kit = checkout.copy(tmp_path / "checkout")
    (kit.path / ".git/info/exclude").write_text(".venv\nhosts.yml\n")
    given = inventory_variables(EXAMPLE)
    with borrowed(distro=distros()[0], publish=(80, 443), variables=given) as first:
        shutil.copyfile(first.inventory, kit.path / "hosts.yml")
        for target in ("secrets", "provision", "deploy"):
            _type(kit, f"make {target} ENV=prod INVENTORY=hosts.yml")
        host = first.hosts[0]
        in_database(host, "CREATE TABLE kept AS SELECT i, md5(i::text) AS text FROM generate_series(1, 10000) i")
        before = in_database(host, "SELECT count(*), md5(string_agg(text, ',' ORDER BY i)) FROM kept")
        _type(kit, "make backup ENV=prod INVENTORY=hosts.yml")
        backup = host.run(f"sudo ls {BACKUPS} | tail -1").stdout.strip()
        packed = subprocess.run(
            [*host.ssh_words, f"sudo tar --create --directory={BACKUPS} {backup}"], capture_output=True, check=True
        )
    (tmp_path / "copy").mkdir()
    subprocess.run(["tar", "--extract", f"--directory={tmp_path / 'copy'}"], input=packed.stdout, check=True)
    # The host is gone; only what the page asks for is left.
    with borrowed(distro=distros()[0], publish=(80, 443), variables=given) as second:
        shutil.copyfile(second.inventory, kit.path / "hosts.yml")
        host = second.hosts[0]
        words = {
            "BACKUP": backup, "COPY": str(tmp_path / "copy"), "COMMIT": backup.rpartition("-")[2],
            "DEPLOY_ROOT": ROOT, "SERVER": " ".join(host.ssh_words[1:]),
        }  # fmt: skip
        begun = time.monotonic()
        for command in commands(PAGE, marked_only=False, without="## From off-site alone"):
            _type(kit, command, words)
        took = time.monotonic() - begun
        print(f"from an empty host to a site that serves: {took:.0f} s")
        assert took < DISASTER_SECONDS
        assert in_database(host, "SELECT count(*), md5(string_agg(text, ',' ORDER BY i)) FROM kept") == before


def _type(kit: Checkout, command: str, variables: dict[str, str] | None = None) -> str:
    return kit.type(command, variables or {})
