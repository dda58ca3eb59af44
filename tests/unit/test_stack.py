"""Descriptions of releases that an earlier version of the kit rendered, as they lie on hosts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from kit_engine import pending, recovery, release, releasing, rollout, stack
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.releases import Record
from kit_engine.report import Report
from support.kit import ROOT

# All that stood in one before nginx reached web by sockets.
FIRST = (
    *("schema", "name", "env", "project", "compose_file", "services", "app_services", "probe", "manage"),
    *("release_commands", "ports", "database", "first_admin", "source", "app_files", "edge", "limits"),
)


@pytest.fixture
def first(tmp_path: Path) -> stack.Stack:
    """The stack of such a release."""
    today = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    told = {name: today[name] for name in FIRST}
    told["edge"] = {name: today["edge"][name] for name in ("domains", "uid")}
    told["app_files"] = {name: value for name, value in today["app_files"].items() if name != "media_volume"}
    return stack.read(told, tmp_path, tmp_path / "releases/first")


def test_the_first_description_is_read_with_the_defaults_of_today(first: stack.Stack) -> None:
    today = stack.read(json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text()), first.root, first.root)
    assert today.edge
    assert first.edge == replace(today.edge, by_sockets=False)
    assert (first.backup, first.hooks, first.external) == (stack.Backups(), {}, None)


def test_nothing_goes_back_to_a_release_of_another_nginx(
    first: stack.Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record(id="first", env="prod", sha="abc123")
    monkeypatch.setattr(recovery, "docker_of", lambda _root, _id: Docker(first))
    with pytest.raises(EngineError, match=r"not by sockets.*Nothing was changed") as raised:
        releasing._rollback(tmp_path, Report("release", False), releasing._Goal(record, False, False))
    assert "make deploy ENV=prod VERSION=abc123" in raised.value.remedy
    assert pending.read(tmp_path) is None


def test_what_failed_over_a_release_of_another_nginx_is_undone_as_that_was_made(
    first: stack.Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    went = []
    monkeypatch.setattr(release, "up", lambda _docker, _report: went.append("up"))
    monkeypatch.setattr(rollout, "converge", lambda _docker, _report: went.append("converge"))
    first.root.mkdir(exist_ok=True)
    for one in (first, replace(first, edge=replace(first.edge, by_sockets=True))):  # type: ignore[type-var]  # it has one
        recovery.serve(Docker(one), Report("recover", False))
    assert went == ["up", "converge"]
