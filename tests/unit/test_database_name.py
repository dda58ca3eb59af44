"""Which names of databases let one be restored into its place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kit_engine import database_name, external, restore_database, stack
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from support.kit import ROOT

SERVER: Any = None


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    """A stack's containers, none of which is asked for."""
    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    return Docker(stack.read(data, tmp_path, tmp_path / "releases/one"))


def called(docker: Docker, name: str) -> stack.Database:
    """The stack's database by another name."""
    assert docker.stack.database
    return replace(docker.stack.database, name=name)


@pytest.mark.parametrize("name", ["shop", "My-Shop", "1st.shop", "postgres_of_ours", "büro", "a+b@c", "x" * 40])
def test_what_works_is_not_refused(docker: Docker, name: str) -> None:
    assert database_name.problem(name) == ""
    external.demand_restorable(docker, SERVER, called(docker, name))
    assert len(f"{name}_before_20260101_000000".encode()) <= 63


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((name, f"{name} is PostgreSQL's own") for name in ("postgres", "template0", "template1")),
        ("x" * 41, "41 bytes"), ("ü" * 21, "42 bytes"),
        *((name, "no restore can work") for name in ("", "a'b", 'a"b', "a b", "a\\b", "a/b", "50%", "a=b", "a\nb")),
    ],
)  # fmt: skip
def test_what_cannot_be_replaced_is_refused_before_hours_of_loading(docker: Docker, name: str, words: str) -> None:
    assert words in database_name.problem(name)
    with pytest.raises(EngineError, match="Nothing can be restored into database") as refused:
        external.demand_restorable(docker, SERVER, called(docker, name))
    assert "release_bundle_database_name in inventories/prod, then: make deploy ENV=prod" in refused.value.remedy


def test_only_what_a_restore_of_ours_had_loaded_is_dropped(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = "_new_20260101_000000"
    there = [f"a.b+{stamp}", f"axb+{stamp}", f"a.bb{stamp}", f"a.b+{stamp}1", f"not-a.b+{stamp}", "a.b+"]
    dropped: list[str] = []
    monkeypatch.setattr(restore_database, "_rows", lambda *_: there)
    monkeypatch.setattr(restore_database, "_sql", lambda *words: dropped.extend(words[3:]))
    restore_database.drop_unfinished(docker, SERVER, called(docker, "a.b+"))
    assert dropped == [f'DROP DATABASE IF EXISTS "a.b+{stamp}" WITH (FORCE)']
