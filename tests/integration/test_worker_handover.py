"""Old workers end the job in hand, their successors go on, and no job is run twice."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from support import host_releases
from support.engine_stack import docker
from support.host_releases import MIGRATE, HostReleases, Version

pytestmark = [pytest.mark.engine, pytest.mark.slow]

JOB_SECONDS, PATIENCE_SECONDS = 4, 60.0
WORKER = "".join((host_releases.WORKER, """\
while not ends:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE kit_jobs SET runs = runs + 1, began = clock_timestamp(), release = %s WHERE id = "
            "(SELECT id FROM kit_jobs WHERE runs = 0 ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id",
            [os.environ["RELEASE"]],
        )
        job = cursor.fetchone()
        end = time.monotonic() + (JOB_SECONDS if job else 0.2)
        while time.monotonic() < end:
            time.sleep(0.1)
        if job:
            cursor.execute("UPDATE kit_jobs SET ended = clock_timestamp() WHERE id = %s", job)
""".replace("JOB_SECONDS", str(JOB_SECONDS))))  # fmt: skip
JOBS = """
with connection.cursor() as cursor:
    cursor.execute("CREATE TABLE IF NOT EXISTS kit_jobs (id bigserial PRIMARY KEY, runs int NOT NULL DEFAULT 0, "
                   "began timestamptz, ended timestamptz, release text)")
    cursor.execute("CREATE TABLE IF NOT EXISTS kit_moments (at timestamptz)")
    cursor.execute("INSERT INTO kit_moments VALUES (clock_timestamp())")
"""


def version(host: HostReleases, text: str, *, stops_first: bool, migrate: str = MIGRATE + JOBS) -> Version:
    """A version with a worker."""
    manifest = {
        "processes": {"worker": {"command": ["python", "-c", WORKER], "stop_grace_seconds": 30}},
        "release": {"commands": [["python", "kit_migrate.py"]], "worker_stop_before_migrate": stops_first},
    }
    release = {"RELEASE": {"type": "string", "from": "release", "meaning": "The release that runs."}}
    return host.version(text, manifest=manifest, migrate=migrate, further_variables=release)


def sql(host: HostReleases, statement: str) -> str:
    """Ask the database."""
    words = ["psql", "--no-align", "--tuples-only", f"--username={host.name}", f"--dbname={host.name}"]
    return docker("exec", host.containers()["db"][0], *words, f"--command={statement}").strip()


def wait_for(host: HostReleases, condition: str) -> None:
    """Until a condition holds in the database."""
    end = time.monotonic() + PATIENCE_SECONDS
    while sql(host, f"SELECT {condition}") != "t":
        assert time.monotonic() < end, condition
        time.sleep(0.1)


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostReleases]:
    """A deploy root whose release has a worker; removed whatever happens."""
    made = host_releases.make(tmp_path_factory.mktemp("workers"))
    try:
        told = made.deploy(version(made, "one", stops_first=False))
        assert told.code == 0, told.err
        yield made
    finally:
        made.remove()


@pytest.mark.parametrize("stops_first", [False, True])
def test_each_job_ends_once_whoever_has_it(working: HostReleases, stops_first: bool) -> None:
    host, old = working, working.current
    new = version(host, f"stops first: {stops_first}", stops_first=stops_first)
    sql(host, "TRUNCATE kit_jobs, kit_moments; INSERT INTO kit_jobs (runs) SELECT 0 FROM generate_series(1, 6)")
    wait_for(host, "count(began) > 0 FROM kit_jobs")
    told = host.deploy(new)
    assert told.code == 0, told.err
    wait_for(host, "count(ended) = 6 FROM kit_jobs")
    assert sql(host, "SELECT min(runs), max(runs) FROM kit_jobs") == "1|1"
    ours = f"FROM kit_jobs WHERE release = '{old}'"
    theirs = f"FROM kit_jobs WHERE release = '{host.current}'"
    assert sql(host, f"SELECT count(*) > 0 {ours}") == sql(host, f"SELECT count(*) > 0 {theirs}") == "t"
    # One after the other, and migrations where the manifest wants them.
    ended, began = sql(host, f"SELECT max(ended) {ours}"), sql(host, f"SELECT min(began) {theirs}")
    assert ended <= began
    migrated = sql(host, "SELECT at FROM kit_moments")
    assert (ended <= migrated) == stops_first
    assert len(host.containers()["worker"]) == 1


def test_a_release_that_fails_gives_the_old_one_its_worker_back(working: HostReleases) -> None:
    host = working
    serving = host.current
    told = host.deploy(version(host, "broken", stops_first=True, migrate="raise SystemExit('no such column')"))
    assert told.code == 1
    assert host.current == serving
    sql(host, "TRUNCATE kit_jobs; INSERT INTO kit_jobs (runs) VALUES (0)")
    wait_for(host, "count(ended) = 1 FROM kit_jobs")
    assert sql(host, "SELECT release FROM kit_jobs") == serving
