"""Releases that are cut off, and what stays of many."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support import host_releases, traffic
from support.backups import until
from support.engine_stack import docker
from support.host_releases import (
    BROKEN,
    DOMAIN,
    MIGRATE,
    SECRETS,
    HostReleases,
    Released,
    Version,
    demand_served,
    demand_whole,
)
from testbed.fixtures import turn

pytestmark = [pytest.mark.engine, pytest.mark.slow]


# All steps in all ways are `make test-faults`; here each step is ended in one way, which the commit chooses.
ENDS, END = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT), "end of a release"
STEPS = ("migrate", "healthy", "drain")


@pytest.mark.parametrize(
    ("step", "number"), [(step, ENDS[(turn(len(ENDS), END) + place) % len(ENDS)]) for place, step in enumerate(STEPS)]
)
def test_a_killed_release_is_recovered_by_the_next(released: Released, step: str, number: signal.Signals) -> None:
    host = released.host
    slow = MIGRATE + "import time; time.sleep(2)\n"
    version = host.version(f"killed at {step} {number}", migrate=slow)
    serving = host.current
    with host.traffic().running() as load:
        if step == "drain":
            load.slow("/slow/4")
            assert host.prepare(version).code == 0
            running = host.started("release", "--json", "--request", json.dumps({"phase": "switch"}))
            running.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        else:
            running = host.started(*host.prepare_words(version))
            running.stdin.write(host.archive(version))  # type: ignore[union-attr]  # it is a pipe
            running.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        wait_for_step(host, step)
        host_releases.kill_group(running, number)
        running.wait(30)
        switched = host.current != serving
        assert switched == (step == "drain")
        told = host.deploy(released.good)
        assert told.code == 0, told.err
    demand_served(traffic.summary(load.requests))
    demand_whole(host, told.json["release"], "one")


def wait_for_step(host: HostReleases, step: str) -> None:
    """Wait until the newest journal tells that a step has begun."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        journals = sorted((host.root / "records").glob("*.journal"))
        if journals and f'"step": "{step}", "event": "begin"' in journals[-1].read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} never began")


# As Docker starts them after a reboot, or after one ended by itself: each mounts what lies in its file's place then.
@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("end", ["fails", "is killed"])
def test_a_new_database_password_that_comes_to_nothing_is_taken_back(
    released: Released, end: str, restarted: bool
) -> None:
    host = released.host
    serving, text, web = host.current, host.ask("/version"), host.containers()["web"]
    rotated = {"release_bundle_secret_values": {**SECRETS, "PGPASSWORD": "another-database-password"}}
    migrate = "import time; time.sleep(8); raise SystemExit('no such column')"
    version = host.version(f"rotated, {end} {restarted}", migrate=migrate, variables=rotated)
    running = host.started(*host.prepare_words(version))
    running.stdin.write(host.archive(version))  # type: ignore[union-attr]  # it is a pipe
    running.stdin.close()  # type: ignore[union-attr]  # it is a pipe
    wait_for_step(host, "migrate")
    # The role has it by then: the command in hand began after that.
    time.sleep(2)
    if restarted:
        docker("restart", "--time", "0", *web)
        until(lambda: answers(host))
    # What needs no connection of its own is answered all along.
    with traffic.Traffic(host.https_port, DOMAIN, 60.0, "/version", "/version").running() as load:
        if end == "is killed":
            host_releases.kill_group(running, signal.SIGKILL)
            running.wait(30)
            # Any command that changes the host makes it whole first.
            told = host.engine("prune-backups", "--json")
            assert told.code == 0, told.err
        assert running.wait(60) != 0
    seen = traffic.summary(load.requests)
    assert not seen.failed, "\n".join(map(str, seen.failed))
    assert seen.count > 10
    # Whoever had a connection must open another one.
    (database,) = host.containers()["db"]
    there = json.loads((host.root / "current/stack.json").read_text())["database"]
    all_others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE client_addr IS NOT NULL"
    docker("exec", database, "psql", "--username", there["user"], "--dbname", there["name"], "--command", all_others)
    assert int(host.ask("/rows")) >= 0
    demand_whole(host, serving, text)


# The site is ready where Redis takes the password that its address carries.
CACHED = """
import socket
from urllib.parse import urlsplit

CACHE = urlsplit(Path(os.environ["CACHE_URL_FILE"]).read_text().strip())


def up(_request):
    with socket.create_connection((CACHE.hostname, CACHE.port), 5) as redis:
        redis.sendall(f"AUTH {CACHE.password}\\r\\nPING\\r\\n".encode())
        told = b"".join(iter(lambda: redis.recv(1), b"\\n")) + redis.recv(100)
    return HttpResponse(f"migrations: {told}", status=200 if b"+OK" in told and b"+PONG" in told else 503)


urlpatterns = [path("up", up), *urlpatterns[1:]]
"""
CACHE_VARIABLES = {"CACHE_URL": {"secret": True, "from": "cache.url", "meaning": "The cache."}}


def test_a_new_password_of_the_cache_is_no_bar_to_going_back(tmp_path: Path) -> None:
    host = host_releases.make(tmp_path)

    def version(text: str, password: str, migrate: str = MIGRATE) -> Version:
        given = {"release_bundle_secret_values": {**SECRETS, "REDIS_PASSWORD": password}}
        return host.version(
            text,
            settings=CACHED,
            migrate=migrate,
            manifest={"services": {"cache": True}},
            variables=given,
            further_variables=CACHE_VARIABLES,
        )

    try:
        assert host.deploy(version("one", "first-cache-password")).code == 0
        serving = host.current
        broken = version("two", "second-cache-password", "raise SystemExit('no such column')")
        told = host.deploy(broken, restarts=["redis"])
        assert told.json["code"] == "migrate"
        assert "PONG" in host.ask("/up")
        told = host.deploy(version("three", "second-cache-password"), restarts=["redis"])
        assert told.code == 0, told.err
        before = host.containers()["redis"]
        with traffic.Traffic(host.https_port, DOMAIN, 60.0, "/up", "/up").running() as load:
            told = host.rollback()
            assert told.code == 0, told.err
        # By either release: each goes by a password of its own.
        demand_served(traffic.summary(load.requests))
        assert host.containers()["redis"] == before
        assert (host.current, host.ask("/version")) == (serving, "one")
    finally:
        host.remove()


def answers(host: HostReleases) -> bool:
    """Whether the site does, by whatever it says."""
    try:
        return bool(host.ask("/version"))
    except subprocess.CalledProcessError:
        return False


def test_a_good_release_that_cannot_be_brought_up_again_stays_good(released: Released) -> None:
    host = released.host
    serving = host.current
    path = host.root / f"releases/{serving}/stack.json"
    sound = path.read_text()
    told = json.loads(sound)
    path.chmod(0o644)
    # More than any disk has.
    path.write_text(json.dumps({**told, "limits": {**told["limits"], "min_free_bytes": 10**18}}))
    try:
        ended = host.prepare(None)
    finally:
        path.write_text(sound)
        path.chmod(0o444)
    assert ended.code == 1
    assert ended.json["code"] == "disk"
    assert host.record(serving)["state"] == "good"


def test_retention_keeps_what_a_rollback_needs(released: Released) -> None:
    host = released.host
    for version in (released.good, released.other) * 2:
        assert host.deploy(version, keep=1).code == 0
    kept = {path.name for path in (host.root / "releases").iterdir()}
    rows = {one["id"]: one["state"] for one in host.engine("releases", "--json").json["releases"]}
    # The one that serves, one to go back to, and one that was left by a rollback, if there was any.
    assert len(kept) == 2 + ("rolled_back" in {rows[one] for one in kept})
    assert host.rollback().code == 0
    images = docker("image", "ls", "--quiet", host.name).split()
    assert images
    assert subprocess.run(["docker", "volume", "inspect", f"{host.project}_postgres_data_prod"], check=False,
                          capture_output=True).returncode == 0  # fmt: skip


# Applies one migration, as Django notes them, takes rows away, and fails.
HARMFUL = """\
import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_settings")
import django
django.setup()
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("INSERT INTO django_migrations (app, name, applied) VALUES ('site', '0002_harmful', now())")
    cursor.execute("TRUNCATE kit_rows")
raise SystemExit("no such column")
"""


@pytest.mark.parametrize("undo", [False, True])
def test_a_migration_that_fails_tells_what_it_left_and_is_undone_where_that_is_wanted(
    released: Released, undo: bool
) -> None:
    host = released.host
    serving, text = host.current, host.ask("/version")
    with host.traffic().running():
        time.sleep(0.5)
    rows = host.ask("/rows")
    assert rows != "0"
    told = host.deploy(host.version(f"harmful {undo}", migrate=HARMFUL), backup=True, restore=undo)
    assert told.code == 1
    assert told.json["code"] == "migrate"
    assert "no such column" in told.json["problem"]
    demand_whole(host, serving, text)
    failed = next(one for one in host.engine("releases", "--json").json["releases"] if one["state"] == "failed")
    assert failed["migrations"] == ["site.0002_harmful"]
    backup = failed["backup"]["id"]
    if undo:
        assert f"Backup {backup} was restored" in told.json["problem"]
        assert host.ask("/rows") == rows
    else:
        assert "site.0002_harmful stay applied" in told.json["problem"]
        assert f"make restore ENV=prod BACKUP={backup} CONFIRM=prod" in told.json["problem"]
        assert host.ask("/rows") == "0"
        # As it says.
        assert host.engine("restore", "--json", backup, "--confirm", "prod").code == 0
        assert host.ask("/rows") == rows


def test_a_changed_database_setting_wants_a_word(released: Released) -> None:
    host = released.host
    before = host.containers()
    limits = {"web": ["768m", 2.0, 256], "process": ["512m", 1.0, 128], "db": ["900m", 2.0, 256],
              "redis": ["192m", 0.5, 64], "nginx": ["128m", 1.0, 64]}  # fmt: skip
    given = {name: dict(zip(("memory", "cpus", "pids"), one, strict=True)) for name, one in limits.items()}
    version = host.version("more memory", variables={"release_bundle_limits": given})
    told = host.deploy(version)
    assert told.code == 1
    assert told.json["code"] == "restart_needed"
    assert "ALLOW_RESTART=db" in told.json["next"]
    assert host.containers() == before
    told = host.deploy(version, restarts=["db"])
    assert told.code == 0, told.err
    assert host.containers()["db"] != before["db"]
    assert host.record(host.current)["gaps"]["db"] > 0
    # One that fails leaves the database as it had it made; to go back to what serves wants a word too.
    settings = BROKEN["answers with errors"][0]["settings"]
    given["db"]["memory"] = "1000m"
    broken = host.version("more, and broken", settings=settings, variables={"release_bundle_limits": given})
    assert host.deploy(broken, restarts=["db"]).json["code"] == "not_ready"
    left = host.containers()
    assert host.deploy(None).json["code"] == "restart_needed"
    assert host.containers() == left
    told = host.deploy(None, restarts=["db"])
    assert told.code == 0, told.err
    assert host.containers()["db"] != left["db"]
