"""The server that a deploy's backup is restored into, started while the image is still being made."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import IO, Any, cast

import pytest
from kit_engine import throw_away
from support.backups import fill
from support.engine_stack import docker
from support.host_releases import HostReleases
from support.sessions import Programs, leave, order, take_lock, told, until

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture
def programs() -> Iterator[Programs]:
    made = Programs()
    yield made
    made.end()


def throw_aways(host: HostReleases) -> list[str]:
    """Names of the containers of a minute that there are, running or not."""
    label = f"label={throw_away.LABEL}={host.project}"
    return docker("ps", "--all", "--filter", label, "--format", "{{.Names}}").split()


def ahead(host: HostReleases, *words: str) -> dict[str, Any]:
    return host.engine("ahead", "--json", "--request", "{}", *words).json


def backed_up(host: HostReleases) -> dict[str, Any]:
    answer = host.engine("backup", "--json", "--level", "restore")
    assert answer.code == 0, answer.err
    assert throw_aways(host) == []
    backup: dict[str, Any] = answer.json["backup"]
    return backup


def demand_bounded(name: str) -> None:
    """What a backup is restored into takes little from visitors, and nobody reaches it."""
    found = json.loads(docker("inspect", name))[0]
    limits = found["HostConfig"]
    assert limits["NetworkMode"] == "none"
    assert found["NetworkSettings"]["Ports"] == {}
    assert (limits["Memory"], limits["NanoCpus"], limits["PidsLimit"]) == (2**30, 10**9, 200)
    # Of a processor that visitors want too.
    assert 0 < limits["CpuShares"] < 1024
    assert limits["CapDrop"] == ["ALL"]
    assert {one.removeprefix("CAP_") for one in limits["CapAdd"]} == {"CHOWN", "SETGID", "SETUID"}
    assert limits["SecurityOpt"] == ["no-new-privileges"]


def test_a_backup_takes_the_server_that_was_started_ahead(host: HostReleases) -> None:
    fill(host, 50)
    # Nothing is known of the database's size before the first backup.
    if not any((host.root / "shared/backups").glob("*")):
        assert ahead(host)["begun"] is False
    backed_up(host)
    assert ahead(host)["begun"] is True
    (name,) = throw_aways(host)
    demand_bounded(name)
    begun = docker("inspect", "--format", "{{.Id}} {{.Created}}", name).split()
    assert backed_up(host)["level"] == "restore"
    words = ("--since", begun[1], "--until", f"{time.time():.3f}", "--filter", f"container={begun[0]}")
    heard = [line.partition(":")[0] for line in docker("events", *words, "--format", "{{.Action}}").splitlines()]
    # It got another name, so that nobody else takes it, and rows were brought into it and counted.
    assert heard.index("rename") < heard.index("exec_create") < heard.index("destroy")


@pytest.mark.parametrize("change", ["stop", "another kind"])
def test_one_that_does_not_fit_is_replaced(host: HostReleases, change: str) -> None:
    fill(host, 50)
    backed_up(host)
    assert ahead(host)["begun"] is True
    (name,) = throw_aways(host)
    if change == "stop":
        docker("stop", "-t", "0", name)
    else:
        image = docker("inspect", "--format", "{{.Image}}", name).strip()
        docker("rm", "--force", "--volumes", name)
        labels = [f"--label={throw_away.LABEL}={host.project}", f"--label={throw_away.KIND}={image} somebody"]
        docker("run", "--detach", "--name", name, *labels, "--network=none", "--entrypoint=sleep", image, "600")
    assert backed_up(host)["level"] == "restore"


@pytest.mark.parametrize("end", ["as it should", "lost"])
def test_it_goes_with_its_session(host: HostReleases, programs: Programs, end: str) -> None:
    fill(host, 50)
    backed_up(host)
    request = json.dumps({"who": "ada@laptop"})
    session = programs.start("-m", "kit_engine", "--root", str(host.root), "session", "--json", "--request", request)
    take_lock(session)
    token = str(told(session)["token"])
    words = ["--root", str(host.root), "ahead", "--json", "--request", "{}", "--session", token]
    order(session, call=words, size=0)
    while "ended" not in (answer := told(session)):
        pass
    assert json.loads(answer["out"])["begun"] is True
    assert len(throw_aways(host)) == 1
    if end == "lost":
        leave(session)
    else:
        cast("IO[str]", session.stdin).write("\0")
        cast("IO[str]", session.stdin).flush()
    session.wait(30)
    until(lambda: throw_aways(host) == [])
