"""Secrets are made where none exist, readable by their owner alone, and never replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from kit_control import secret_store
from kit_control.errors import KitError

NEEDED = {"KEY": 64, "PASSWORD": 32}


@pytest.fixture(autouse=True)
def _no_password_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANSIBLE_VAULT_PASSWORD_FILE", raising=False)


def vault(folder: Path) -> secret_store.VaultStore:
    """The vault of an environment under a folder."""
    return secret_store.VaultStore(folder / "inventory/vault.yml", folder / ".vault/prod", "prod")


def test_strong_values_are_made_once(tmp_path: Path) -> None:
    store = vault(tmp_path)

    assert secret_store.fill(store, NEEDED, writes=True) == ["KEY", "PASSWORD"]

    first = store.read()
    assert {name: len(value) for name, value in first.items()} == NEEDED
    assert len(set(first["KEY"])) > 20
    assert secret_store.fill(store, NEEDED, writes=True) == []
    assert store.read() == first
    for path in (store.path, tmp_path / ".vault/prod"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert store.path.read_text().startswith("$ANSIBLE_VAULT;")
    assert not any(value in store.path.read_text() for value in first.values())


def test_what_else_stands_in_the_vault_stays(tmp_path: Path) -> None:
    store = vault(tmp_path)
    secret_store.fill(store, {"KEY": 64}, writes=True)
    password = VaultLib([("default", VaultSecret((tmp_path / ".vault/prod").read_bytes().strip()))])
    content = yaml.safe_load(password.decrypt(store.path.read_bytes()))
    own = {**content, "other": {"a": 1}, "vault_secrets": {**content["vault_secrets"], "MINE": "é 'x'", "NUMBER": 7}}
    store.path.write_bytes(password.encrypt(yaml.safe_dump(own)))

    assert secret_store.fill(store, NEEDED, writes=True) == ["PASSWORD"]

    after = yaml.safe_load(password.decrypt(store.path.read_bytes()))
    made = after["vault_secrets"].pop("PASSWORD")
    assert len(made) == 32
    assert after == own


def test_asking_only_writes_nothing(tmp_path: Path) -> None:
    assert secret_store.fill(vault(tmp_path), NEEDED, writes=False) == ["KEY", "PASSWORD"]
    assert list(tmp_path.iterdir()) == []


def test_the_callers_password_may_be_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "password"
    program.write_text("#!/bin/sh\necho from-a-program\n")
    program.chmod(0o700)
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(program))
    store = vault(tmp_path)

    secret_store.fill(store, NEEDED, writes=True)

    opened = VaultLib([("default", VaultSecret(b"from-a-program"))]).decrypt(store.path.read_bytes())
    assert yaml.safe_load(opened)["vault_secrets"] == store.read()
    assert not (tmp_path / ".vault").exists()


def test_a_wrong_or_missing_password_is_told(tmp_path: Path) -> None:
    store = vault(tmp_path)
    secret_store.fill(store, NEEDED, writes=True)
    (tmp_path / ".vault/prod").write_text("another\n")
    with pytest.raises(KitError, match="cannot be opened with the password in"):
        vault(tmp_path).read()
    (tmp_path / ".vault/prod").unlink()
    with pytest.raises(KitError, match="There is no vault password at"):
        vault(tmp_path).read()


def test_generated_values_of_local_are_private_and_kept(tmp_path: Path) -> None:
    store = secret_store.PlainStore(tmp_path / "build/secrets.json")
    secret_store.fill(store, NEEDED, writes=True)
    first = store.read()
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert secret_store.fill(store, {**NEEDED, "NEW": 20}, writes=True) == ["NEW"]
    assert {name: store.read()[name] for name in first} == first
    store.path.write_text("{")
    with pytest.raises(KitError, match="is damaged"):
        store.read()
