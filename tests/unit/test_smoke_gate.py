"""What becomes of a release whose smoke gate cannot judge it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kit_control import engine_call, smoke
from kit_control.action import KitAction
from kit_control.errors import KitError
from support.actions import action

TASK = {
    "root": "/srv/site", "python": "python3", "address": "", "ports": {}, "open_ports": [], "writes": False,
    "trust_file": "", "self_signed": True, "changed": True, "alone": True, "gate": True, "limit": 60, "released": True,
}  # fmt: skip
PASSWORD = "secret"  # noqa: S105 - nobody's
RELEASES = "kit_release", {"phase": "prepare", "rollback": "", "root": "/srv/site", "python": "python3"}
JUDGES = (
    "kit_preflight",
    {"gate": True, "root": "/srv/site", "python": "python3", "stack": {}, "images": [], "lock": {}},
)


def test_what_the_gate_cannot_reach_is_a_problem_of_the_release_under_way(tmp_path: Path) -> None:
    (tmp_path / "stack.json").touch()
    told = action("kit_smoke", tmp_path, TASK, password=PASSWORD).work()
    assert "become root on one without a password" in told["problem"]
    assert "failed" not in told


def test_so_is_what_nobody_thought_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_action: KitAction) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(smoke, "connection_of", fails)
    told = action("kit_smoke", tmp_path, TASK, password=PASSWORD).work()
    assert told["problem"] == "The smoke gate came to no verdict: OSError: [Errno 28] No space left on device"


def test_so_is_what_one_of_several_hosts_tells(tmp_path: Path) -> None:
    described = {"changed": False, "target": {}, "was_changed": True}
    hosts = [described, {"changed": False, "problem": "two cannot be reached"}]
    told = action("kit_smoke", tmp_path, {"hosts": hosts, "gate": True, "limit": 60, "released": True}).work()
    assert told["problem"] == "two cannot be reached"
    assert not (tmp_path / smoke.PLAN).exists()


@pytest.mark.parametrize("differs", [{"gate": False}, {"released": False}])
def test_where_no_release_is_under_way_it_is_the_tasks_failure(tmp_path: Path, differs: dict[str, Any]) -> None:
    (tmp_path / "stack.json").touch()
    with pytest.raises(KitError, match="without a password"):
        action("kit_smoke", tmp_path, {**TASK, **differs}, password=PASSWORD).work()


@pytest.mark.parametrize(("name", "task"), [JUDGES, RELEASES])
def test_it_is_refused_before_anything_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, task: dict[str, Any]
) -> None:
    called: list[str] = []
    monkeypatch.setattr(engine_call, "call", lambda *_: called.append("engine"))
    with pytest.raises(KitError, match="without a password") as refused:
        action(name, tmp_path, task, password=PASSWORD).work()
    assert refused.value.code == "sudo"
    assert called == []


def judged_by(folder: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, Any]) -> dict[str, Any]:
    """What a gate expects of a release with this description, while the manifest asks for a new page."""
    today = {"smoke": [{"name": "new page"}], "static": "/static/"}
    monkeypatch.setattr(smoke, "expectations", lambda _project: today)
    (folder / "stack.json").write_text(json.dumps(told))
    made = action("kit_smoke", folder, TASK)
    expected: dict[str, Any] = made._describe()["target"]["project"]
    return expected


def test_a_release_is_judged_by_what_was_promised_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"smoke": [{"name": "old page"}], "static": "/static/"}
    assert judged_by(tmp_path, monkeypatch, {"smoke": own}) == own


def test_one_of_an_older_kit_is_not_asked_for_what_may_have_come_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judged_by(tmp_path, monkeypatch, {}) == {"smoke": [], "static": "/static/"}
    assert "one: An older kit rendered this release" in " ".join(capsys.readouterr().err.split())
