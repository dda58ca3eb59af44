"""`make secrets`: values are made and encrypted, and stand in no output at any verbosity."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kit_control import secret_store
from support import checkout
from support.kit import FIXTURE, ROOT, copy_inventory, playbook

CANARY = "canary-that-nobody-may-say-" + "c" * 40


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kit's folder with an environment `prod` of its own."""
    monkeypatch.delenv("ANSIBLE_VAULT_PASSWORD_FILE", raising=False)
    for name in ("roles", "compose", "nginx", "Dockerfile", ".dockerignore", "image", "requirements"):
        (tmp_path / name).symlink_to(ROOT / name)
    copy_inventory("prod", tmp_path / "inventories/prod")
    return tmp_path


def test_made_once_and_never_said(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"kit_root": str(kit), "project_manifest": str(FIXTURE), "app_domains": ["www.example.com"]}
    inventory = str(kit / "inventories/prod")
    first = playbook("secrets", inventory, variables, "-vvvv", "--diff", scratch=kit)
    assert first.code == 0, first.output
    vault = kit / "inventories/prod/group_vars/all/vault.yml"
    values = secret_store.VaultStore(vault, kit / ".vault/prod", "prod").read()
    assert {name: len(value) for name, value in values.items()} == {"KEY": 64, "PGPASSWORD": 32}
    before = vault.read_bytes()
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(kit / ".vault/prod"))

    again = playbook("secrets", inventory, variables, "-vvvv", "--diff", scratch=kit)
    rendered = playbook("render", inventory, variables, "-vvvv", "--diff", scratch=kit)

    assert re.findall(r"changed=(\d+)", again.output) == ["0"]
    assert vault.read_bytes() == before
    assert (kit / "build/prod/secrets/KEY").read_text() == values["KEY"]
    said = first.output + again.output + rendered.output
    for value in (*values.values(), (kit / ".vault/prod").read_text().strip()):
        assert value not in said


def test_a_mistaken_value_is_not_repeated(kit: Path) -> None:
    given = {"KEY": "django-insecure-" + CANARY, "PGPASSWORD": CANARY, "TYPO": CANARY}
    variables = {"kit_root": str(kit), "project_manifest": str(FIXTURE), "vault_secrets": given}
    hosts = kit / "hosts.yml"
    hosts.write_text("app: {hosts: {web1: {ansible_host: 192.0.2.10}}}\n")
    words = ("-i", str(hosts), "-vvvv", "--diff")
    run = playbook("deploy", str(kit / "inventories/prod"), variables, *words, scratch=kit)
    assert run.code != 0
    assert "KEY starts with 'django-insecure-'" in run.output
    assert CANARY not in run.output


def test_one_call_of_make_makes_the_vault_and_opens_it(tmp_path: Path) -> None:
    copied = checkout.copy(tmp_path / "kit")
    copied.type("make secrets render ENV=prod", {})
    secret = copied.secrets("prod")["SECRET_KEY"]
    assert (copied.path / "build/prod/secrets/SECRET_KEY").read_text() == secret
