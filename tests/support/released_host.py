"""A deploy root with releases, whose containers are only told of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from kit_engine import (
    cache_password,
    database_password,
    ending,
    masking,
    one_off,
    preflight,
    prepare,
    recovery,
    release,
    releases,
    releasing,
    retention,
    rollout,
    static_files,
    systemd,
    verbs,
)
from kit_engine.docker import Container, Docker
from kit_engine.releases import Record
from kit_engine.report import Report

from support.kit import ROOT

ONE, TWO, THREE = (f"2026010{number}T000000Z-0123456" for number in (1, 2, 3))
# What is done last of what gives the first release back all that it stands on.
STATIC = f"static files of {ONE}"


@dataclass
class Host:
    """A deploy root with releases, and what was done to its containers.

    Attributes:
        there: its containers.
        done: what was done, in order.
        anew: services that Compose would make anew.
    """

    root: Path
    there: list[Container] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    anew: set[str] = field(default_factory=set)

    def release(self, name: str, env: str = "prod", *, lacks: str = "", **facts: Any) -> Docker:
        """Write a release and its record; `lacks` names a service that it has not."""
        folder = self.root / releases.FOLDER / name
        folder.mkdir(parents=True)
        told = json.loads((ROOT / f"tests/render/golden/{env}/stack.json").read_text())
        told["services"] = [one for one in told["services"] if one != lacks]
        (folder / "stack.json").write_text(json.dumps(told))
        record: dict[str, Any] = {"env": env, "started": name, "state": "good", **facts}
        releases.write(self.root, Record(id=name, **record))
        return recovery.docker_of(self.root, name)

    def record(self, name: str) -> Record:
        """Read a release's record."""
        found = releases.read(self.root, name)
        assert found
        return found

    def has(self, service: str, *, name: str = "", running: bool = True, started: str = "") -> None:
        """Have a container; with a release's name it is web of that."""
        state = "running" if running else "exited"
        one = Container(f"{service}{name}", service, service, "", "", state, 0, "", started, 0, release=name)
        self.there.append(one)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """One that nothing was released to."""
    host = Host(tmp_path)
    done = host.done

    def secrets(docker: Docker, **_more: bool) -> bool:
        done.append(f"secrets of {docker.stack.release}")
        return True

    def password(docker: Docker) -> bool:
        done.append(f"password of {docker.stack.release}")
        return True

    def cache(docker: Docker) -> None:
        done.append(f"cache of {docker.stack.release}")

    def publish_again(docker: Docker) -> None:
        done.append(f"static files of {docker.stack.release}")

    def remove(_docker: Docker, containers: list[Container], **_more: int) -> None:
        done.extend(f"remove {item.id}" for item in containers)

    def served(docker: Docker, _report: Report) -> None:
        done.append(f"serve {docker.stack.release}")
        releases.switch(docker.stack.root, docker.stack.release)

    def up(docker: Docker, _report: Report, **_more: bool) -> release.Changes:
        done.append(f"up {docker.stack.release}")
        return release.Changes()

    monkeypatch.setattr(Docker, "containers", lambda _docker: list(host.there))
    monkeypatch.setattr(prepare, "secrets", secrets)
    monkeypatch.setattr(database_password, "ensure", password)
    monkeypatch.setattr(cache_password, "ensure", cache)
    monkeypatch.setattr(static_files, "publish_again", publish_again)
    monkeypatch.setattr(ending, "remove", remove)
    monkeypatch.setattr(one_off, "remove_left", lambda _docker: None)
    monkeypatch.setattr(preflight, "check", lambda _docker: [])
    monkeypatch.setattr(rollout, "restarts", lambda *_: host.anew)
    monkeypatch.setattr(recovery, "serve", served)
    monkeypatch.setattr(release, "up", up)
    monkeypatch.setattr(masking, "of", lambda _docker: str)
    monkeypatch.setattr(verbs, "site_url", lambda _docker: "https://site.test")
    monkeypatch.setattr(systemd, "runs", lambda: False)
    monkeypatch.setattr(retention, "image_id", lambda _reference: "sha256:1")
    monkeypatch.setattr(releasing, "image_id", lambda _reference: "sha256:1")
    recovery.docker_of.cache_clear()
    return host


def report() -> Report:
    """Nobody reads along."""
    return Report("release", as_json=False, stream=StringIO())
