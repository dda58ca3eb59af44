"""A host that is lost with its volumes, and what docs/DISASTER.md brings back from a copy of a backup."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from kit_engine.backup import FOLDER
from support.backups import backed_up, fill, folder_of, media, media_file, sql
from support.engine_stack import docker, remove_project
from support.host_releases import DOMAIN, HostReleases
from support.prod_stack import lay_out

pytestmark = [pytest.mark.engine, pytest.mark.slow]

CHECKSUM = "SELECT md5(string_agg(id || text, ',' ORDER BY id)) FROM kit_rows"


def test_all_comes_back_on_an_empty_host(host: HostReleases, tmp_path: Path) -> None:
    fill(host, 5000)
    for number in range(4):
        media_file(host, f"folder-{number}/file.txt", str(number))
    sql(host, "CREATE ROLE reporting LOGIN PASSWORD 'of its own'; CREATE TABLE reports (id int); "
              "INSERT INTO reports VALUES (1); ALTER TABLE reports OWNER TO reporting; "
              "GRANT SELECT ON kit_rows TO reporting")  # fmt: skip
    before = (sql(host, CHECKSUM), media(host, "sh", "-c", "find . -type f | sort | xargs sha256sum"))
    given = backed_up(host)
    shutil.copytree(folder_of(host, given), tmp_path / given)

    remove_project(host.project)
    shutil.rmtree(host.root)
    assert docker("volume", "ls", "--quiet", "--filter", f"name={host.project}") == ""

    host.root.mkdir()
    lay_out(host.root, host.name, DOMAIN)
    told = host.deploy(host.made[0])
    assert told.code == 0, told.err
    (host.root / FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copytree(tmp_path / given, folder_of(host, given))
    told = host.engine("restore", "--json", given, "--confirm", "prod")
    assert told.code == 0, told.err
    assert host.ask("/rows") == "5000"
    assert (sql(host, CHECKSUM), media(host, "sh", "-c", "find . -type f | sort | xargs sha256sum")) == before
    assert sql(host, "SELECT tableowner FROM pg_tables WHERE tablename = 'reports'") == "reporting"
    # No password was in the backup.
    assert sql(host, "SELECT rolpassword IS NULL FROM pg_authid WHERE rolname = 'reporting'") == "t"
    assert told.json["lacking"] == []
