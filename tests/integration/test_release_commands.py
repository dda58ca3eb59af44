"""What becomes of release commands that are cut off, cannot be run, or take too long, and of where they run."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest
from support import host_releases
from support.engine_stack import docker
from support.host_releases import MIGRATE, HostReleases, Released, demand_whole

pytestmark = [pytest.mark.engine, pytest.mark.slow]

ENDLESS = "import time; time.sleep(10000)\n"
KILLED = "import os; os.kill(os.getpid(), 9)\n"


def wait_for(host: HostReleases, state: str, label: str = "") -> str:
    """Wait for a container that is in a state and bears a label; its id."""
    words = ["--filter", f"label=com.docker.compose.project={host.project}", "--filter", f"status={state}"]
    words += ["--filter", f"label={label}"] if label else []
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = docker("ps", "--all", "--quiet", *words).split()
        if found:
            return found[0]
        time.sleep(0.1)
    raise AssertionError(f"no container is {state}")


def wait_for_command(container: str) -> None:
    """Wait until a release command runs in a container."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if "kit_migrate.py" in docker("top", container):
            return
        time.sleep(0.1)
    raise AssertionError("no release command runs")


def migrating(host: HostReleases, text: str) -> tuple[subprocess.Popen[bytes], str]:
    """Begin a release whose migration never ends; the engine, and the container that it runs in."""
    version = host.version(text, migrate=ENDLESS)
    running = host.started(*host.prepare_words(version))
    assert running.stdin
    running.stdin.write(host.archive(version))
    running.stdin.close()
    running.stdin = None
    apart = wait_for(host, "running", "kit.one_off")
    wait_for_command(apart)
    return running, apart


def killed(host: HostReleases, text: str) -> None:
    """Kill a release while it migrates; both its migration and its new web are left."""
    running, apart = migrating(host, text)
    # The new web waits for its start meanwhile.
    wait_for(host, "created")
    host_releases.kill_group(running, signal.SIGKILL)
    running.wait(30)
    wait_for_command(apart)


def test_what_a_killed_release_left_running_is_ended_by_the_next(released: Released) -> None:
    host = released.host
    killed(host, "killed")
    told = host.deploy(released.other)
    assert told.code == 0, told.err
    demand_whole(host, told.json["release"], "two")


def test_what_a_killed_release_left_running_goes_with_all_else(released: Released) -> None:
    host = released.host
    killed(host, "killed before down")
    told = host.engine("down", "--json")
    assert told.code == 0, told.err
    assert not host.containers()
    told = host.deploy(released.good)
    assert told.code == 0, told.err
    demand_whole(host, told.json["release"], "one")


@pytest.mark.parametrize(
    ("manifest", "migrate", "said"),
    [
        ({"release": {"commands": [["no-such-program"]]}}, MIGRATE, "has no program no-such-program"),
        ({}, KILLED, "needs more memory than web may take"),
    ],
    ids=["no such program", "killed"],
)
def test_a_command_that_cannot_say_why_it_failed(
    released: Released, manifest: dict[str, object], migrate: str, said: str
) -> None:
    host = released.host
    serving, text = host.current, host.ask("/version")
    told = host.deploy(host.version("broken", migrate=migrate, manifest=manifest), backup=True)
    assert (told.code, told.json["code"], told.json["step"]) == (1, "migrate", "migrate")
    assert said in told.json["problem"]
    demand_whole(host, serving, text)


def test_a_command_whose_container_is_taken_away(released: Released) -> None:
    host = released.host
    serving, text = host.current, host.ask("/version")
    running, apart = migrating(host, "taken away")
    docker("rm", "--force", apart)
    out = running.communicate(timeout=60)[0].decode()
    assert running.returncode == 1
    assert "The container that it ran in ended meanwhile" in out
    demand_whole(host, serving, text)


def test_a_command_has_a_time_limit_and_is_ended_by_it(released: Released) -> None:
    host = released.host
    serving, text = host.current, host.ask("/version")
    variables = {"release_bundle_command_timeout_seconds": 15}
    told = host.deploy(host.version("endless", migrate=ENDLESS, variables=variables))
    assert told.code == 1
    assert "was given 15 s" in told.json["problem"]
    # With its container, where else it would go on.
    demand_whole(host, serving, text)
