"""Only what is Ansible's own is remembered."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from kit_control import ansible_yaml, memo

TEXT = "".join(f"key{number}: canary\n" for number in range(5000))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one of our own."""
    monkeypatch.setattr(memo, "FOLDER", tmp_path / "memo")
    return tmp_path / "memo"


def test_what_people_wrote_is_kept_nowhere(folder: Path, tmp_path: Path) -> None:
    assert ansible_yaml.load(TEXT, Loader=yaml.CSafeLoader)["key1"] == "canary"
    (tmp_path / "vault.yml").write_text(TEXT)
    with (tmp_path / "vault.yml").open() as stream:
        assert ansible_yaml.load(stream, Loader=yaml.CSafeLoader)["key1"] == "canary"
    assert not folder.exists()


def test_ansibles_settings_and_routes_are(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "ansible/config/base.yml"
    path.parent.mkdir(parents=True)
    path.write_text(TEXT)
    for _ in range(2):
        with path.open("rb") as stream:
            assert len(ansible_yaml.load(stream, Loader=yaml.CSafeLoader)) == 5000
        assert len(ansible_yaml.load(TEXT.encode(), Loader=yaml.CBaseLoader)) == 5000
    assert sorted(one.name.partition("-")[0] for one in folder.iterdir()) == ["CBaseLoader", "CSafeLoader"]
