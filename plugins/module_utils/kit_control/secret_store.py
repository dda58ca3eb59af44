"""Secrets that the kit makes: random values where none exist, never replacing one that does."""

from __future__ import annotations

import json
import os
import secrets
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, get_file_vault_secret

from kit_control.errors import KitError
from kit_control.variables import as_text

# Letters and digits only: such a value needs no escaping in an address, a shell or a configuration file.
# 32 of them hold 190 bits, above the 128 that NIST SP 800-57 asks for.
ALPHABET = string.ascii_letters + string.digits
_VAULT_PASSWORD_LENGTH = 48
# Where the secrets of an environment without a vault lie, below its build folder.
LOCAL_FILE = "secrets.json"


class Store(Protocol):
    """Where an environment's secrets lie."""

    path: Path

    @property
    def password(self) -> str:
        """Path of the file that opens it; empty where none is needed."""

    @property
    def edit(self) -> str:
        """The command that opens it in an editor."""

    def read(self) -> dict[str, str]:
        """Return the values by name."""

    def write(self, values: Mapping[str, str]) -> None:
        """Replace the file atomically."""


class PlainStore:
    """A file under build/ that only its owner can read: for environments without a vault (local)."""

    def __init__(self, path: Path) -> None:
        """Name the JSON file; it may be absent."""
        self.path = path

    @property
    def password(self) -> str:
        """Nothing: the file is plain."""
        return ""

    @property
    def edit(self) -> str:
        """The command that opens it in an editor."""
        return f"${{EDITOR:-vi}} {self.path}"

    def read(self) -> dict[str, str]:
        """Return the values by name.

        Raises:
            KitError: the file is damaged.
        """
        if not self.path.is_file():
            return {}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except ValueError:
            remedy = f"Restore it, or remove it to have new values made: rm {self.path}"
            raise KitError("secrets", f"{self.path} is damaged: it is no JSON.", remedy) from None
        return {str(name): str(value) for name, value in content.items()}

    def write(self, values: Mapping[str, str]) -> None:
        """Replace the file atomically."""
        _write_private(self.path, json.dumps(dict(values), indent=2, sort_keys=True) + "\n")


class VaultStore:
    """An ansible-vault file in the inventory, encrypted with the caller's password or one made here."""

    def __init__(self, path: Path, own_password: Path, env: str) -> None:
        """Name the vault, and the password file to use (and make) where the caller names none.

        Args:
            path: the vault file.
            own_password: used unless ANSIBLE_VAULT_PASSWORD_FILE names another.
            env: name of the environment, for the advice.
        """
        self.path = path
        self._env = env
        self._password_path = Path(os.environ.get("ANSIBLE_VAULT_PASSWORD_FILE") or own_password)
        self._may_make_password = not os.environ.get("ANSIBLE_VAULT_PASSWORD_FILE")

    @property
    def password(self) -> str:
        """Path of the password's file."""
        return str(self._password_path)

    @property
    def edit(self) -> str:
        """The command that opens it in an editor."""
        return f"ANSIBLE_VAULT_PASSWORD_FILE={self._password_path} .venv/bin/ansible-vault edit {self.path}"

    def read(self) -> dict[str, str]:
        """Return the values by name.

        Raises:
            KitError: the vault's password is missing or wrong, or its content is no mapping.
        """
        return {str(name): as_text(value) for name, value in self._content().get("vault_secrets", {}).items()}

    def write(self, values: Mapping[str, str]) -> None:
        """Replace the file atomically; what else stands in it, and values that did not change, stay as they are."""
        content = self._content()
        before = content.get("vault_secrets", {})
        kept = {name: value for name, value in before.items() if as_text(value) == values.get(name)}
        text = yaml.safe_dump(
            {**content, "vault_secrets": {**values, **kept}}, sort_keys=True, allow_unicode=True, explicit_start=True
        )
        _write_private(self.path, self._vault().encrypt(text).decode())

    def _content(self) -> dict[str, Any]:
        if not self.path.is_file():
            return {}
        try:
            content = yaml.safe_load(self._vault().decrypt(self.path.read_bytes()))
        except AnsibleError:
            raise KitError(
                "vault",
                f"{self.path} cannot be opened with the password in {self._password_path}.",
                "Name the right password: export ANSIBLE_VAULT_PASSWORD_FILE=path",
            ) from None
        if not isinstance(content, dict) or not isinstance(content.get("vault_secrets", {}), dict):
            raise KitError("vault", f"{self.path} holds no `vault_secrets:` mapping.", self.edit)
        return content

    def _vault(self) -> VaultLib:
        if not self._password_path.is_file():
            if self.path.is_file() or not self._may_make_password:
                raise KitError(
                    "vault",
                    f"There is no vault password at {self._password_path}, and {self.path} needs one.",
                    f"Put it there (0600), or: export ANSIBLE_VAULT_PASSWORD_FILE=…; then make secrets ENV={self._env}",
                )
            _write_private(self._password_path, random_value(_VAULT_PASSWORD_LENGTH) + "\n")
        # Ansible's own reader: the file may be a program that prints the password.
        secret = get_file_vault_secret(filename=str(self._password_path), loader=DataLoader())
        secret.load()
        return VaultLib([("default", secret)])


def fill(store: Store, needed: Mapping[str, int], writes: bool) -> list[str]:
    """Make the values that a store lacks.

    Args:
        store: where they lie.
        needed: length in characters by name.
        writes: whether to write, or only to say what would be made.

    Returns:
        The names of those made, sorted.
    """
    existing = store.read()
    values = filled(existing, needed)
    made = sorted(set(values) - set(existing))
    if made and writes:
        store.write(values)
    return made


def filled(existing: Mapping[str, str], needed: Mapping[str, int]) -> dict[str, str]:
    """Add a random value for each name that has none.

    Args:
        existing: values by name; kept as they are.
        needed: length in characters by name.

    Returns:
        The existing values and the new ones.
    """
    return {**existing, **{name: random_value(size) for name, size in needed.items() if name not in existing}}


def random_value(length: int) -> str:
    """Make a random value of letters and digits.

    Args:
        length: number of characters.
    """
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def _write_private(path: Path, text: str) -> None:
    """Replace a file atomically; nobody but its owner can read it at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600)
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        # On the disk before the old name leads to it: these values exist nowhere else.
        os.fsync(file.fileno())
    temporary.replace(path)
