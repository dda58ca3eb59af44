"""Where a rollback of several hosts goes: two deploy roots on this machine stand for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from kit_engine import lock, releases
from kit_engine.releases import Record
from support.engine import base_image
from support.kit import playbook

pytestmark = pytest.mark.engine

OF_ONE, OF_TWO, SERVES = (f"2026010{number}T000000Z-0123456" for number in (1, 2, 3))


def test_hosts_that_would_go_to_different_releases_are_left_as_they_are(tmp_path: Path) -> None:
    roots = {"one": tmp_path / "one", "two": tmp_path / "two"}
    for root, before in zip(roots.values(), (OF_ONE, OF_TWO), strict=True):
        for one in (before, SERVES):
            (root / releases.FOLDER / one).mkdir(parents=True)
            releases.write(root, Record(id=one, env="prod", started=one, state="good", image=base_image("redis")))
        (root / "current").symlink_to(f"{releases.FOLDER}/{SERVES}")
    hosts = {name: {"ansible_connection": "local", "deploy_root": str(root)} for name, root in roots.items()}
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(yaml.safe_dump({"app": {"hosts": hosts}}))
    try:
        run = playbook("rollback", "prod", {"kit_become": False}, "-i", str(inventory), scratch=tmp_path)
    finally:
        for root in roots.values():
            lock.place_of(root).unlink(missing_ok=True)
    assert run.code != 0
    assert "is not the same on all hosts" in run.output, run.output
    for name, root in roots.items():
        assert f"{name}: {OF_ONE if name == 'one' else OF_TWO}" in run.output
        assert not (root / "records/pending.json").exists()
        assert releases.current(root) == SERVES
