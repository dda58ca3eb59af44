"""What the release that serves on is given back after another one lay in its place, without an engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from kit_engine import cache_password, pending, prepare, readiness, releases, rollout, stack
from kit_engine.command import Done
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.pending import DEPLOY, Pending
from support.kit import ROOT
from support.released_host import ONE, STATIC, TWO, Host

_REAL_SECRETS = prepare.secrets


def put_secrets(host: Host, docker: Docker, value: str) -> None:
    """Give a release secrets of which the app mounts one, and Redis the other."""
    folder = docker.stack.bundle / "secrets"
    folder.mkdir()
    for name in ("KEY", "redis_password"):
        (folder / name).write_text(value)
    app, redis = ({"user": "0", "image": "x", "secrets": [{"source": name}]} for name in ("app_KEY", "redis_password"))
    services = {"web": app, "worker": app, "redis": redis}
    files = {"app_KEY": {"file": str(host.root / "shared/secrets/KEY")},
             "redis_password": {"file": str(host.root / "shared/secrets/redis_password")}}  # fmt: skip
    docker._configuration = {"services": services, "secrets": files}


@pytest.mark.parametrize(("differs", "later"), [(True, True), (True, False), (False, True)])
def test_what_docker_started_with_another_release_s_secrets_reads_its_own(
    host: Host, monkeypatch: pytest.MonkeyPatch, differs: bool, later: bool
) -> None:
    monkeypatch.setattr(prepare, "secrets", _REAL_SECRETS)
    old, new = host.release(ONE), host.release(TWO)
    put_secrets(host, old, "one")
    put_secrets(host, new, "two" if differs else "one")
    releases.switch(host.root, ONE)
    pending.begin(host.root, Pending(TWO, DEPLOY, ONE))
    begun = f"{pending.begun(host.root)}.123456789Z" if later else "2000-01-01T00:00:00.5Z"
    (host.root / "shared").mkdir()
    prepare.secrets(new)
    for service in old.stack.services:
        host.has(service, name=ONE if service == "web" else "", started=begun)
    monkeypatch.setattr(Docker, "hang_up", lambda _docker, item: host.done.append(f"hang up {item.id}"))
    monkeypatch.setattr(Docker, "compose", lambda _docker, *words, **_more: host.done.append(" ".join(words)))
    mounted = host.root / "shared/secrets"
    with (mounted / "KEY").open() as web, (mounted / "redis_password").open() as redis:
        rollout.give_up(new, old)
        seen = web.read(), redis.read()
    assert [path.read_text() for path in sorted(mounted.iterdir())] == ["one", "one"]
    misled = differs and later
    again = [f"hang up web{ONE}", "restart worker"] if misled else []
    assert host.done == [f"password of {ONE}", f"cache of {ONE}", *again, STATIC]
    # What Redis was started with is what it takes.
    assert seen == ("one" if misled or not differs else "two", "two" if differs else "one")


@pytest.mark.parametrize("answer", ["OK\n", "ERR unknown command 'ACL'\n", "timeout"])
def test_redis_is_told_a_hash_and_made_anew_only_where_it_takes_none(
    root: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    told: list[str] = []

    def execute(_docker: Docker, _container: Container, words: Sequence[str], *, stdin: str, **_more: Any) -> Done:
        assert "hidden" not in " ".join(words)
        told.append(stdin)
        if answer == "timeout":
            raise EngineError("timeout", "it hangs", "look")
        return Done(0, answer, "")

    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    docker = Docker(stack.read(data, root, root / "releases/one"))
    redis = Container("redis", "redis", "redis", "", "", "running", 0, "", "", 0)
    there = [redis]
    monkeypatch.setattr(Docker, "containers", lambda _docker: there)
    monkeypatch.setattr(Docker, "execute", execute)
    monkeypatch.setattr(Docker, "compose", lambda _docker, *words, **_more: told.append(f"{words[0]} {words[-1]}"))
    monkeypatch.setattr(readiness, "wait_healthy", lambda _docker, service, _restarts: told.append(f"wait {service}"))
    cache_password.ensure(docker)
    assert told == []
    (root / "shared/secrets").mkdir(parents=True)
    (root / "shared/secrets/redis_password").write_text("hidden\n")
    cache_password.ensure(docker)
    said = f"ACL SETUSER default #{hashlib.sha256(b'hidden').hexdigest()}\n"
    assert told == [said, *([] if answer == "OK\n" else ["up redis", "wait redis"])]
    there.clear()
    cache_password.ensure(docker)
    assert told.count(said) == 1
