"""What a restore does to what is not in the backup: media files and rows of meanwhile, other databases, newer code."""

from __future__ import annotations

import json

import pytest
from kit_engine import media_writer
from support import host_releases
from support.backups import (
    backed_up,
    databases,
    fill,
    limits,
    manifest_of,
    media,
    media_file,
    media_files,
    sql,
    until,
    until_step,
)
from support.engine_stack import docker
from support.host_releases import HostReleases

pytestmark = [pytest.mark.engine, pytest.mark.slow]
# As the example app does: it is ready once the database has all that its code knows.
KNOWS = """
INSTALLED_APPS.append("django.contrib.sessions")


def up(_request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM django_migrations WHERE app = 'sessions'")
        applied = cursor.fetchone()[0]
    return HttpResponse("ok" if applied else "not applied: sessions", status=200 if applied else 503)


urlpatterns = [path("up", up), *urlpatterns[1:]]
"""


def restore(host: HostReleases, given: str) -> host_releases.Told:
    """Bring a backup back."""
    return host.engine("restore", "--json", given, "--confirm", "prod")


def as_root(host: HostReleases, script: str) -> str:
    """What a shell says in the folder of the media files."""
    return docker("exec", "--user", "0", "--workdir", "/var/app/media", host.containers()["web"][0], "sh", "-c", script)


def without_sessions(host: HostReleases) -> None:
    """Have the database be as old as code that does not know them."""
    sql(host, "DROP TABLE IF EXISTS django_session; DELETE FROM django_migrations WHERE app = 'sessions'")


def test_media_files_of_meanwhile_stay_with_the_database_from_before(host: HostReleases) -> None:
    """Also one that the app writes to in place, and that was as in the backup when it was laid beside those in use."""
    media(host, "sh", "-c", "rm -rf ./*")
    media_file(host, "same.txt", "as it was")
    fill(host, 400_000)
    given = backed_up(host)
    fill(host, 20)
    running = host.started("restore", "--json", given, "--confirm", "prod")
    until_step(running, "restore")
    until(lambda: media(host, "stat", "-c", "%h", "same.txt") == "2", running)
    media(host, "sh", "-c", "printf later > later.txt; printf 'by the app' > same.txt")
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    kept = f"{media_writer.KEPT}/{json.loads(out.splitlines()[-1])['kept_as']}"
    assert media_files(host) == {"./same.txt"}
    assert media(host, "cat", "same.txt") == "as it was"
    assert as_root(host, f"cd {kept} && cat later.txt same.txt") == "laterby the app"
    # They go when that database has gone, and not before.
    assert host.engine("prune-backups").code == 0
    assert as_root(host, f"ls {kept}") != ""
    for name in (one for one in databases(host).split() if "_before_" in one):
        sql(host, f'DROP DATABASE "{name}"')
    assert host.engine("prune-backups").code == 0
    assert as_root(host, f"ls {media_writer.KEPT}") == ""


def test_latest_is_never_what_a_restore_was_to_replace(host: HostReleases) -> None:
    fill(host, 41)
    given = backed_up(host)
    fill(host, 5)
    for _ in range(2):
        told = restore(host, "latest")
        assert (told.code, told.json["backup"], host.ask("/rows")) == (0, given, "41")


def test_a_database_whose_name_is_like_one_of_ours_stays(host: HostReleases) -> None:
    fill(host, 6)
    given = backed_up(host)
    others = {f"{host.name}_new_site", f"{host.name}_new_20261129_12000"}
    left = f"{host.name}_new_20261129_120000"
    for name in (*others, left):
        sql(host, f'CREATE DATABASE "{name}"')
    told = restore(host, given)
    there = set(databases(host).split())
    for name in others & there:
        sql(host, f'DROP DATABASE "{name}"')
    assert told.code == 0, told.err
    assert others <= there
    assert left not in there


@pytest.mark.parametrize("way", ["rollback", "deploy", "restore"])
def test_rows_that_are_older_than_the_code_are_told_and_each_way_on_works(host: HostReleases, way: str) -> None:
    fill(host, 77)
    without_sessions(host)
    given, old = backed_up(host), host.current
    new = host.version("knows", settings=KNOWS)
    told = host.deploy(new)
    assert told.code == 0, told.err
    newer = backed_up(host)
    told = restore(host, given)
    assert (told.code, told.json["code"]) == (1, "not_ready")
    assert "migrations that the backup was made without: sessions.0001_initial" in told.json["problem"]
    assert f"The database from before is {host.name}_before_" in told.json["problem"]
    assert host.ask("/rows") == "77"
    if way == "rollback":
        told = host.rollback()
        assert (told.code, host.current) == (0, old), told.err
    elif way == "deploy":
        told = host.deploy(None)
        assert (told.code, host.ask("/up")) == (0, "ok"), told.err
    else:
        told = restore(host, newer)
        assert (told.code, host.ask("/up")) == (0, "ok"), told.err
    assert host.ask("/rows") == "77"
    # For the next test: a release that knows no more than this one.
    assert host.deploy(host.version("as before")).code == 0


def test_code_that_is_older_than_the_backup_is_told(host: HostReleases) -> None:
    """A rollback leaves the newer schema: what is restored there has it as much as what is replaced."""
    without_sessions(host)
    assert host.deploy(host.version("as before")).code == 0
    assert host.deploy(host.version("knows", settings=KNOWS)).code == 0
    newer = backed_up(host)
    assert host.rollback().code == 0
    told = restore(host, newer)
    assert told.code == 0, told.err
    assert (told.json["lacking"], told.json["unknown"]) == ([], ["sessions.0001_initial"])
    assert "migrations that the code does not know: sessions.0001_initial" in told.json["message"]


def test_a_database_of_more_tables_than_a_transaction_has_locks_for_comes_back(host: HostReleases) -> None:
    """A server has 64 for each of 100 connections; both to read a table and to make it takes its indexes as well."""
    each = "DO $$ BEGIN FOR number IN 1..2000 LOOP EXECUTE format('{}', number); COMMIT; END LOOP; END $$"
    unique = ", ".join(f"{name} int UNIQUE" for name in "abcd")
    sql(host, each.format(f"CREATE TABLE kit_many_%s (id int PRIMARY KEY, {unique})"))
    try:
        sql(host, "INSERT INTO kit_many_7 SELECT generate_series(1, 7)")
        given = backed_up(host, "--level", "restore")
        counted = {name: rows for name, rows in manifest_of(host, given)["rows"].items() if "kit_many_" in name}
        assert (len(counted), counted["public.kit_many_7"], sum(counted.values())) == (2000, 7, 7)
        with limits(host, level="checksum"):
            told = restore(host, given)
        assert told.code == 0, told.err
        assert sql(host, "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'kit\\_many\\_%'") == "2000"
    finally:
        sql(host, each.format("DROP TABLE kit_many_%s"))
