"""What a restore that fails leaves noted, without an engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kit_engine import backup, database, external, pending, recovery, restore, restore_media, stack
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report
from support.kit import ROOT


@pytest.mark.parametrize("settles", [True, False])
def test_media_files_that_could_not_be_settled_are_the_next_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settles: bool
) -> None:
    def failing(*_: object) -> None:
        raise EngineError("database", "away", "look")

    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    docker = Docker(stack.read(data, tmp_path, tmp_path / "releases/one"))
    (tmp_path / "records").mkdir()
    done: list[str] = []
    for module, name in ((external, "demand_restorable"), (restore, "_demand_sound"),
                         (backup, "demand_restore_room"), (backup, "create"), (database, "migrations"),
                         (restore_media, "stage")):  # fmt: skip
        monkeypatch.setattr(module, name, lambda *_, **__: None)
    monkeypatch.setattr(recovery, "serve", lambda *_: done.append("served"))
    # The new database cannot be made, nor dropped.
    monkeypatch.setattr(restore, "_drop_unfinished", failing)
    monkeypatch.setattr(restore, "_sql", failing)
    settle = failing if not settles else lambda *_: None
    monkeypatch.setattr(restore_media, "settle", lambda *_: settle() if pending.read(tmp_path) else None)
    docker.lent[data["database"]["service"]] = None  # type: ignore[assignment]  # nobody asks it
    with pytest.raises(EngineError, match="away"):
        restore.restore(docker, Report("restore", as_json=True), {"id": "one", "bytes": 1})
    assert done == ["served"]
    assert (pending.read(tmp_path) is None) is settles
