"""What is kept of a failure quotes containers, and holds no secret of theirs: records are read by all, and by hooks."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from kit_engine import ending, hooks, one_off, pending, recovery, releases, releasing, rollout
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.masking import MASK
from kit_engine.pending import DEPLOY, Pending
from kit_engine.releases import Record
from kit_engine.report import Report
from kit_engine.stack import Hook
from support.kit import ROOT

ONE, TWO = (f"2026010{number}T000000Z-0123456" for number in (1, 2))
CANARY = "canary-5f0c2a91"
FAILURE = EngineError("unhealthy", f"web ended: postgres://app:{CANARY}@db/app", "make logs")


def lay_out(root: Path, name: str) -> None:
    """Write the files of a release whose containers know the canary."""
    folder = root / releases.FOLDER / name
    (folder / "secrets").mkdir(parents=True)
    told = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    told["secret_variables"] = []
    (folder / "stack.json").write_text(json.dumps(told))
    (folder / "secrets/database_password").write_text(CANARY)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deploy root where one release serves, and another does not get ready."""

    def serve(docker: Docker, _report: Report) -> None:
        if docker.stack.release == TWO:
            raise FAILURE
        releases.switch(tmp_path, docker.stack.release)

    for name in (ONE, TWO):
        lay_out(tmp_path, name)
        releases.write(tmp_path, Record(id=name, env="prod", started=name, state="good" if name == ONE else "live"))
    releases.switch(tmp_path, ONE)
    monkeypatch.setattr(recovery, "serve", serve)
    monkeypatch.setattr(rollout, "give_up", lambda *_: None)
    monkeypatch.setattr(one_off, "remove_left", lambda _docker: None)
    monkeypatch.setattr(ending, "remove_half_made", lambda _docker: None)
    recovery.docker_of.cache_clear()
    return tmp_path


def demand_masked(root: Path) -> None:
    """Refuse the canary in anything that was kept, and a reason that says nothing."""
    for path in (root / releases.RECORDS).iterdir():
        assert CANARY not in path.read_text(), path
    record = releases.read(root, TWO)
    assert record
    assert f"postgres://app:{MASK}@db/app" in record.reason


def test_of_a_release_that_fails_before_it_serves(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    def fails(*_: object) -> None:
        raise FAILURE

    def receive(root: Path, *_: object) -> str:
        (root / releases.RECORDS / f"{TWO}.json").unlink()
        return TWO

    def warn(_docker: Docker, moment: str, _report: Report, record: Record, kind: str) -> None:
        heard.append(hooks.told(record, moment, kind))

    monkeypatch.setattr(rollout, "ready_for", fails)
    monkeypatch.setattr(releases, "receive", receive)
    monkeypatch.setattr(releasing, "image_id", lambda _reference: "sha256:1")
    monkeypatch.setattr(hooks, "warn", warn)
    facts = {"env": "prod", "ref": "HEAD", "sha": "0" * 40, "dirty": False, "image": "app:1", "who": "tests@here"}
    asked: dict[str, Any] = {"id": TWO, "configuration": "0" * 64, **facts}
    with pytest.raises(EngineError):
        releasing._deploy(host, Report("release", as_json=False, stream=StringIO()), asked)
    demand_masked(host)
    (told,) = heard
    assert CANARY not in told
    assert MASK in told


def test_of_one_that_is_left_after_its_switch(host: Path) -> None:
    under_way = Pending(TWO, DEPLOY, ONE)
    releases.switch(host, TWO)
    recovery.go_back(host, under_way, Report("release", as_json=False, stream=StringIO()), FAILURE.problem)
    demand_masked(host)


def test_of_one_that_was_cut_off_and_cannot_be_brought_to_serve(host: Path) -> None:
    releases.switch(host, TWO)
    pending.begin(host, Pending(TWO, DEPLOY, ONE))
    assert CANARY not in recovery.recover(host)
    demand_masked(host)


def test_of_a_hook_that_could_not_be_run(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **_more: object) -> None:
        raise FAILURE

    monkeypatch.setattr(one_off, "run", fails)
    told = hooks._problem(recovery.docker_of(host, TWO), hooks.AFTER_SWITCH, 0, Hook(("tell",), 5), "{}")
    assert MASK in told
    assert CANARY not in told
