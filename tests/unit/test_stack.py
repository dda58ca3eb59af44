"""Descriptions of releases that an earlier version of the kit rendered, as they lie on hosts."""

from __future__ import annotations

import json
from pathlib import Path

from kit_engine import stack
from support.kit import ROOT

# All that stood in one before nginx reached web by sockets.
FIRST = (
    *("schema", "name", "env", "project", "compose_file", "services", "app_services", "probe", "manage"),
    *("release_commands", "ports", "database", "first_admin", "source", "app_files", "edge", "limits"),
)


def test_the_first_description_is_read_with_the_defaults_of_today(tmp_path: Path) -> None:
    today = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    told = {name: today[name] for name in FIRST}
    told["edge"] = {name: today["edge"][name] for name in ("domains", "uid")}
    told["app_files"] = {name: value for name, value in today["app_files"].items() if name != "media_volume"}
    found, now = stack.read(told, tmp_path, tmp_path), stack.read(today, tmp_path, tmp_path)
    assert found.edge == now.edge
    assert (found.backup, found.hooks, found.external) == (stack.Backups(), {}, None)
