"""What a release does on its way, waits for where it is interrupted, and what it may make anew."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kit_engine import (
    backup,
    backup_prune,
    command,
    current,
    edge,
    ending,
    hooks,
    one_off,
    plan,
    preflight,
    prepare,
    readiness,
    release_commands,
    rollout,
    signals,
    stack,
    static_files,
)
from kit_engine.docker import SERVICE_LABEL, Container, Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report
from support.kit import ROOT


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    """A release all of whose steps up to the switch do nothing; web is not to be started."""
    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    docker = Docker(stack.read(data, tmp_path, tmp_path / "releases/two"))

    @contextmanager
    def waiting(_docker: Docker) -> Iterator[one_off.Waiting]:
        yield one_off.Waiting.__new__(one_off.Waiting)

    monkeypatch.setattr(rollout, "_create_web", lambda _docker: None)
    monkeypatch.setattr(rollout, "_ask_database", lambda _docker, **_more: [])
    monkeypatch.setattr(rollout, "_backing", lambda *_: {})
    monkeypatch.setattr(rollout, "made_anew", lambda *_: set())
    monkeypatch.setattr(rollout, "_start_web", lambda _docker: pytest.fail("it was to end before"))
    monkeypatch.setattr(static_files, "publish", lambda *_: None)
    monkeypatch.setattr(preflight, "check", lambda _docker, **_more: [])
    monkeypatch.setattr(prepare, "folders", lambda _stack: None)
    monkeypatch.setattr(prepare, "secrets", lambda *_, **_more: False)
    monkeypatch.setattr(edge, "stage", lambda *_: False)
    monkeypatch.setattr(hooks, "demand", lambda *_: None)
    monkeypatch.setattr(one_off, "waiting", waiting)
    monkeypatch.setattr(release_commands, "run", lambda *_: None)
    docker._configuration = {"services": {}}
    return docker


@pytest.mark.parametrize("commands", [True, False])
def test_containers_that_are_being_created_are_waited_for(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, commands: bool
) -> None:
    created = threading.Event()

    def create(_docker: Docker) -> None:
        time.sleep(1.5)
        created.set()

    monkeypatch.setattr(rollout, "_create_web", create)
    report = Report("release", False)
    wanted = rollout.Wanted(commands=commands)
    report.names = wanted.steps(docker)
    # The second one comes while that is waited for.
    ends = [threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM)) for seconds in (0.5, 0.9)]
    with signals.taken():
        for one in ends:
            one.start()
        with pytest.raises(signals.Interrupted):
            rollout.ready_for(docker, report, wanted, rollout.Prepared())
        for one in ends:
            one.join()
    assert created.is_set()


def test_a_backup_and_migrations_are_kept_as_soon_as_there_are_any(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = SimpleNamespace(as_record=lambda: {"id": "20260101T000000Z"})
    monkeypatch.setattr(backup, "create", lambda *_, **_more: made)
    monkeypatch.setattr(backup_prune, "prune", lambda *_: None)
    monkeypatch.setattr(release_commands, "run", lambda _docker, applied, *_: applied.append("site.0002_more"))
    kept: list[tuple[str, str, list[str]]] = []
    report = Report("release", False)
    wanted = rollout.Wanted(backup=True)
    report.names = wanted.steps(docker)
    done = rollout.Prepared(keep=lambda done: kept.append((report.current, str(done.backup["id"]), [*done.migrations])))
    # As the host would: the next step does not come to its end.
    with pytest.raises(pytest.fail.Exception):
        rollout.ready_for(docker, report, wanted, done)
    assert kept == [("backup", "20260101T000000Z", []), ("migrate", "20260101T000000Z", ["site.0002_more"])]


def inspected(service: str, seconds: int | None) -> dict[str, Any]:
    """What Docker says of a container that may take so long to end; None: Docker's own time."""
    own = {} if seconds is None else {"StopTimeout": seconds}
    return {
        "Id": service, "Name": f"/{service}", "Image": "sha256:1", "State": {"Status": "running"}, "HostConfig": {},
        "Config": {"Image": "app", "Labels": {SERVICE_LABEL: service}, **own},
    }  # fmt: skip


@pytest.mark.parametrize(("worker", "limit"), [(None, 600), (60, 600), (3600, 3675)])
def test_a_worker_may_take_its_own_time_to_end_whatever_a_command_may(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, worker: int | None, limit: float
) -> None:
    there = [inspected("web", 45), inspected("web", 45), inspected("worker", worker)]
    monkeypatch.setattr(docker, "inspected", lambda: there)
    monkeypatch.setattr(current, "with_other_secrets", lambda *_: {"worker"})
    limits: list[tuple[str, float]] = []

    def run(argv: Sequence[str], *, limit: float = command.QUICK_SECONDS, **_more: Any) -> command.Done:
        limits.append(("up" if "up" in argv else argv[1], limit))
        return command.Done(0, "", "")

    monkeypatch.setattr(command, "run", run)
    rollout.follow(docker)
    ending.stop(docker, docker.containers())
    # Made anew for another secret, and because the image is another: by Compose; web ends by itself.
    assert limits == [("up", limit)] * 2 + [("stop", limit)] * 3


def test_what_ends_nothing_has_the_time_of_a_command(docker: Docker) -> None:
    short = replace(docker.stack, limits=replace(docker.stack.limits, command_timeout_seconds=5))
    assert Docker(short).patience(()) == 5


def web_of(docker: Docker, monkeypatch: pytest.MonkeyPatch, health: list[bool]) -> list[str]:
    """Have one old web container and two new ones that answer at once; gives who was examined, with what result."""
    items = [
        Container(name, name, "web", "", "", "running", 0, "", "", 0, release=release)
        for name, release in (("old", "one"), ("first", "two"), ("second", "two"))
    ]
    examined: list[str] = []

    def is_healthy(_docker: Docker, item: Container) -> bool:
        examined.append(item.name)
        return health.pop(0) if len(health) > 1 else health[0]

    monkeypatch.setattr(docker, "containers", lambda: items)
    monkeypatch.setattr(docker, "last_log_lines", lambda _item: "its log")
    monkeypatch.setattr(readiness, "ask", lambda *_: None)
    monkeypatch.setattr(readiness, "is_healthy", is_healthy)
    return examined


@pytest.mark.parametrize("bound", [True, False])
def test_web_is_ready_when_each_new_container_passes_its_health_check(
    docker: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: bool
) -> None:
    examined = web_of(docker, monkeypatch, [True, False, True])
    begun = time.monotonic()
    readiness.wait_for_web(docker, [tmp_path if bound else tmp_path / "none"])
    assert examined == ["first", "second"] * 2
    assert time.monotonic() - begun < 1


def test_web_that_answers_and_is_not_healthy_is_given_up(
    docker: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web_of(docker, monkeypatch, [False])
    monkeypatch.setattr(readiness, "ERROR_SECONDS", 0.3)
    with pytest.raises(EngineError) as refused:
        readiness.wait_for_web(docker, [tmp_path])
    assert refused.value.code == "not_ready"
    assert "the health check of first, second fails" in refused.value.problem
    assert "its log" in refused.value.problem


def anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *services: str) -> Docker:
    """A release that Compose would make these services anew for, as its dry run tells."""
    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    docker = Docker(stack.read(data, tmp_path, tmp_path / "releases/two"))
    lines = [f" DRY-RUN MODE -  Container {docker.stack.project}-{name}-1  Recreate" for name in services]
    lines += [line.replace("Recreate", "Recreated") for line in lines]
    # What is only started, and the app's own, whose names may end alike.
    lines += [f" DRY-RUN MODE -  Container {docker.stack.project}-{name}  Running" for name in ("db-1", "redis-1")]
    lines += [f" DRY-RUN MODE -  Container {docker.stack.project}-web-db-10-x-1  Recreate"]
    done = command.Done(0, "", "\n".join(lines))
    monkeypatch.setattr(docker, "compose", lambda *_, **_more: done)
    monkeypatch.setattr(current, "with_other_secrets", lambda *_: set())
    return docker


@pytest.mark.parametrize("services", [(), ("nginx",), ("redis",), ("db", "redis", "nginx")])
def test_what_compose_would_make_anew_is_told_and_wants_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, services: tuple[str, ...]
) -> None:
    docker = anew(tmp_path, monkeypatch, *services)
    assert rollout.restarts(docker, []) == set(services)
    if not services:
        assert rollout.made_anew(docker, [], frozenset()) == set()
        return
    with pytest.raises(EngineError, match="Nothing was changed") as refused:
        rollout.made_anew(docker, [], frozenset())
    assert refused.value.code == "restart_needed"
    assert f"make deploy ENV=prod ALLOW_RESTART={','.join(sorted(services))} " in refused.value.remedy
    for allowed in (frozenset(services), frozenset({"all"})):
        assert rollout.made_anew(docker, [], allowed) == set(services)


def test_a_word_for_one_service_is_none_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = anew(tmp_path, monkeypatch, "nginx", "redis")
    with pytest.raises(EngineError, match="changes nginx,") as refused:
        rollout.made_anew(docker, [], frozenset({"redis"}))
    assert "ALLOW_RESTART=nginx,redis " in refused.value.remedy


def test_another_secret_of_redis_makes_it_anew_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = anew(tmp_path, monkeypatch)
    monkeypatch.setattr(current, "with_other_secrets", lambda *_: {"redis", "web"})
    assert rollout.restarts(docker, []) == {"redis"}


@pytest.mark.parametrize("services", [("nginx",), ("nginx", "redis")])
def test_a_plan_says_what_stops_and_the_word_for_it(services: tuple[str, ...]) -> None:
    told = {"restarts": list(services), "migrations": {"unknown": []}, "env": "prod"}
    said = plan.verdict(told, ["deploy a new release"])
    assert f"it stops {', '.join(services)} for some seconds" in said
    assert said.endswith(f"ALLOW_RESTART={','.join(services)}")
    assert "ALLOW_RESTART" not in plan.verdict({**told, "restarts": []}, ["deploy a new release"])
