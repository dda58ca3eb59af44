"""Two changes of one host at the same time: one wins, the other waits or stops, and no container is left over."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.backups import sql
from support.engine_stack import docker
from support.host_releases import HostReleases, Released, Version, demand_whole, kill_group

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PATIENCE_SECONDS = 60.0


def begun(host: HostReleases, version: Version, step: str = "") -> subprocess.Popen[bytes]:
    """Start to prepare a version; gives it back when it is under way, or when its journal has come to a step."""
    known = set((host.root / "records").glob("*.journal"))
    running = host.started(*host.prepare_words(version, backup=True))
    running.stdin.write(host.archive(version))  # type: ignore[union-attr]  # it is a pipe
    running.stdin.close()  # type: ignore[union-attr]  # it is a pipe
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        new = set((host.root / "records").glob("*.journal")) - known
        if any(f'"step": "{step or "check"}", "event": "begin"' in path.read_text() for path in new):
            return running
        time.sleep(0.01)
    raise AssertionError(f"it never came to {step}")


def ended(running: subprocess.Popen[bytes]) -> int:
    """Wait for one that was started; its exit code."""
    running.stdout.read()  # type: ignore[union-attr]  # it is a pipe
    return running.wait(PATIENCE_SECONDS)


def other_than(released: Released) -> tuple[Version, str]:
    """The version that does not serve, and what it answers."""
    return (released.other, "two") if released.host.ask("/version") != "two" else (released.good, "one")


def test_of_two_releases_one_wins_and_the_other_is_told_by_whom(released: Released) -> None:
    host = released.host
    version, text = other_than(released)
    first = begun(host, version)
    second = host.prepare(version)
    assert second.code == 1
    assert second.json["code"] == "locked"
    assert second.json["changed"] is False
    assert ended(first) == 0
    assert host.phase("switch").code == 0
    assert host.phase("finish", problem="", keep=5).code == 0
    demand_whole(host, host.current, text)


def test_a_rollback_that_waits_makes_an_unfinished_release_undone_and_goes_back(released: Released) -> None:
    host = released.host
    version, text = ("two", "one") if host.ask("/version") == "two" else ("one", "two")
    first = begun(host, other_than(released)[0])
    told = host.engine("rollback", "--json", "--wait", "60")
    assert ended(first) == 0
    assert told.code == 0, told.err
    demand_whole(host, host.current, text)
    # What was prepared is no more, and says so.
    late = host.phase("switch")
    assert (late.code, late.json["code"]) == (1, "not_prepared")
    demand_whole(host, host.current, text)
    assert host.ask("/version") != version


def test_a_restore_during_a_release_waits_for_it_and_leaves_one_of_each(released: Released) -> None:
    host = released.host
    serving, text = host.current, host.ask("/version")
    assert host.engine("backup", "--json").code == 0
    rows = int(host.ask("/rows"))
    first = begun(host, other_than(released)[0])
    assert host.engine("restore", "--json", "latest", "--confirm", "prod").json["code"] == "locked"
    told = host.engine("restore", "--json", "latest", "--confirm", "prod", "--wait", "60")
    assert ended(first) == 0
    assert told.code == 0, told.err
    demand_whole(host, serving, text)
    assert int(host.ask("/rows")) == rows


@pytest.mark.parametrize("verb", ["backup", "migrate", "restart"])
def test_whatever_changes_the_host_next_makes_it_whole(released: Released, verb: str) -> None:
    host = released.host
    serving, text = host.current, host.ask("/version")
    running = begun(host, other_than(released)[0], "healthy")
    kill_group(running, signal.SIGKILL)
    running.wait(PATIENCE_SECONDS)
    assert len(host.containers()["web"]) > 1
    told = host.engine(verb, "--json", "--wait", "30")
    assert told.code == 0, told.err
    demand_whole(host, serving, text)
    newest = host.engine("releases", "--json").json["releases"][0]
    assert newest["state"] == "abandoned"


def test_taking_it_down_brings_nothing_up_first_and_a_deploy_brings_it_back(released: Released) -> None:
    host = released.host
    version, text = other_than(released)
    running = begun(host, version, "healthy")
    kill_group(running, signal.SIGKILL)
    running.wait(PATIENCE_SECONDS)
    sql(host, "INSERT INTO kit_rows (text) VALUES ('before it was taken down')")
    told = host.engine("down", "--json", "--wait", "30")
    assert told.code == 0, told.err
    assert host.containers() == {}
    again = host.deploy(version)
    assert again.code == 0, again.err
    demand_whole(host, host.current, text)
    assert sql(host, "SELECT count(*) FROM kit_rows WHERE text = 'before it was taken down'") == "1"
    # The data lie in the volume that is named for them, and in no other of the container's.
    place = Path(sql(host, "SHOW data_directory"))
    mounts = json.loads(docker("inspect", "--format", "{{json .Mounts}}", host.containers()["db"][0]))
    (holding,) = (one for one in mounts if place.is_relative_to(one["Destination"]))
    assert (holding["Type"], holding["Name"]) == ("volume", f"{host.project}_postgres_data_prod")
    # Another version, where nothing runs at all and nothing was cut off.
    assert host.engine("down", "--json").code == 0
    version, text = (released.good, "one") if text == "two" else (released.other, "two")
    again = host.deploy(version)
    assert again.code == 0, again.err
    demand_whole(host, host.current, text)
