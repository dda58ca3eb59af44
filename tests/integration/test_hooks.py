"""Hooks in the new image, on the real engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from support import host_releases
from support.backups import limits
from support.engine_stack import docker
from support.host_releases import SECRETS, HostReleases, Version

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# Writes down what it was given.
NOTE = "import sys; open('/var/app/logs/hooks', 'a').write(sys.stdin.read())"
MOMENTS = ("before_backup", "before_migrate", "after_switch", "after_failure", "after_backup_failure")
FAILS = "import os; print('the key is', open(os.environ['KEY_FILE']).read()); raise SystemExit(7)"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostReleases]:
    """A deploy root with a first release, which has hooks too; removed whatever happens."""
    made = host_releases.make(tmp_path_factory.mktemp("hooks"))
    try:
        told = made.deploy(version(made, "one"))
        assert told.code == 0, told.err
        yield made
    finally:
        made.remove()


def version(host: HostReleases, text: str, **instead: Any) -> Version:
    """A version whose every moment is noted, or has another script or limit."""
    entries = {}
    for moment in MOMENTS:
        script, seconds = instead.get(moment, (NOTE, 60))
        entries[moment] = [{"run": "image", "command": ["python", "-c", script], "timeout_seconds": seconds}]
    entries["after_switch"].append({"run": "control", "command": ["no-such-program"]})
    return host.version(text, manifest={"hooks": entries}, migrate=instead.get("migrate", host_releases.MIGRATE))


def noted(host: HostReleases) -> list[dict[str, Any]]:
    """What the hooks were given since the last look."""
    path = host.root / "shared/logs/hooks"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    path.unlink(missing_ok=True)
    return found


def test_the_first_release_has_its_hooks_too(host: HostReleases) -> None:
    assert [(one["hook"], one["state"]) for one in noted(host)] == [
        ("before_migrate", "running"),
        ("after_switch", "live"),
    ]


def test_each_runs_at_its_moment_and_gets_the_record(host: HostReleases) -> None:
    told = host.deploy(version(host, "two"), backup=True)
    assert told.code == 0, told.err
    found = noted(host)
    assert [one["hook"] for one in found] == ["before_backup", "before_migrate", "after_switch"]
    assert {(one["id"], one["env"], one["kind"]) for one in found} == {(host.current, "prod", "deploy")}
    assert [bool(one["backup"]) for one in found] == [False, False, True]
    record = host.record(host.current)
    assert (record["state"], record["warnings"]) == ("good", [])
    assert "hooks" in record["seconds"]
    assert "/11] hooks … " in told.err or "hooks" in record["seconds"]
    # A release that stands is brought up again: its release commands need not run.
    assert host.deploy(None).code == 0
    assert [one["hook"] for one in noted(host)] == ["after_switch"]


def test_a_scheduled_backup_that_fails_is_told_to_hook_and_watcher(host: HostReleases) -> None:
    asked: list[str] = []

    class Watcher(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    noted(host)
    with ThreadingHTTPServer(("127.0.0.1", 0), Watcher) as watcher:
        threading.Thread(target=watcher.serve_forever, daemon=True).start()
        try:
            with limits(host, ping_url=f"http://127.0.0.1:{watcher.server_port}/watch"):
                assert host.engine("scheduled", "backup", "--json").code == 0
                assert (asked, noted(host)) == (["/watch"], [])
                with limits(host, min_free_bytes=2**60):
                    assert host.engine("scheduled", "backup", "--json").code == 1
        finally:
            watcher.shutdown()
    assert asked == ["/watch", "/watch/fail"]
    (found,) = noted(host)
    assert (found["hook"], found["id"]) == ("after_backup_failure", host.current)


def test_a_rollback_tells_of_itself(host: HostReleases) -> None:
    told = host.rollback()
    assert told.code == 0, told.err
    assert [(one["hook"], one["kind"], one["id"]) for one in noted(host)] == [
        ("after_switch", "rollback", host.current)
    ]


@pytest.mark.parametrize(
    ("moment", "script", "words"),
    [
        ("before_backup", ("import time; time.sleep(60)", 5), "was given 5 s and has not ended"),
        ("before_migrate", (FAILS, 60), "ended with 7"),
    ],
)
def test_one_that_fails_before_ends_the_release(
    host: HostReleases, moment: str, script: tuple[str, int], words: str
) -> None:
    serving, text, before = host.current, host.ask("/version"), host.containers()
    migrate = host_releases.MIGRATE + "connection.cursor().execute('CREATE TABLE kit_never (id int)')\n"
    told = host.deploy(version(host, "never", migrate=migrate, **{moment: script}), backup=True)
    assert (told.code, told.json["code"]) == (1, "hook"), told.err
    problem = told.json["problem"]
    assert f"Hook {moment}[0] `python -c" in problem
    assert words in problem
    assert SECRETS["KEY"] not in told.out + told.err
    assert ("the key is ********" in problem) == (moment == "before_migrate")
    assert (host.current, host.ask("/version"), host.containers()) == (serving, text, before)
    database = before["db"][0]
    tables = docker("exec", database, "psql", "-U", host.name, "-d", host.name, "-Atc", r"\dt kit_never")
    assert tables == ""
    (failure,) = [one for one in noted(host) if one["hook"] == "after_failure"]
    assert failure["state"] == "failed"
    assert words in failure["reason"]
    left = docker("ps", "--all", "--quiet", "--filter", f"name={host.project}-release-")
    assert left == ""


def test_one_that_fails_after_is_a_warning(host: HostReleases) -> None:
    told = host.deploy(version(host, "three", after_switch=(FAILS, 60)))
    assert told.code == 0, told.err
    assert host.ask("/version") == "three"
    record = host.record(host.current)
    assert record["state"] == "good"
    (warning,) = record["warnings"]
    assert "Hook after_switch[0]" in warning
    assert "ended with 7" in warning
    assert SECRETS["KEY"] not in json.dumps(record)


def test_what_the_smoke_gate_refuses_is_told(host: HostReleases) -> None:
    noted(host)
    serving = host.current
    told = host.deploy(version(host, "four"), problem="no style sheet")
    assert told.json["code"] == "smoke"
    assert host.current == serving
    first, switched, failure = noted(host)
    assert (first["hook"], switched["hook"], failure["hook"]) == ("before_migrate", "after_switch", "after_failure")
    assert (failure["state"], failure["reason"]) == ("failed", "no style sheet")


def test_a_recovery_runs_none(host: HostReleases) -> None:
    noted(host)
    assert host.prepare(version(host, "five")).code == 0
    assert [one["hook"] for one in noted(host)] == ["before_migrate"]
    # Its run goes no further, and the next one makes the host whole: by a rollback that is refused.
    assert host.rollback("20000101T000000Z-none").code == 1
    assert not (host.root / "records/pending.json").exists()
    assert noted(host) == []
