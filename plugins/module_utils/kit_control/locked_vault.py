"""Why Ansible could not open an encrypted file of the inventory, in words that say which file and what to type."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ansible.errors import AnsibleError
from ansible.parsing.vault import AnsibleVaultError

from kit_control.errors import KitError

_MARK = b"$ANSIBLE_VAULT"
_FOLDERS = ("group_vars", "host_vars")


def explain(error: AnsibleError, sources: Iterable[str], env: str) -> KitError | None:
    """Turn what Ansible said into file, cause and next command.

    Args:
        error: what loading the inventory's variables ended with.
        sources: the inventories.
        env: name of the environment, for the advice.

    Returns:
        None where it is about something else.
    """
    # Its own error stands behind one of reading the file.
    if not any(isinstance(one, AnsibleVaultError) for one in (error, error.__context__)):
        return None
    files = ", ".join(locked_files(sources)) or "A value of the inventory"
    password = os.environ.get("ANSIBLE_VAULT_PASSWORD_FILE", "")
    cause = f"the vault password in {password} does not open it" if password else "no vault password was given"
    return KitError(
        "vault",
        f"{files}: encrypted, and {cause}. No host was touched.",
        f"put the right password into .vault/{env} (0600), or: export ANSIBLE_VAULT_PASSWORD_FILE=path",
    )


def locked_files(sources: Iterable[str]) -> list[str]:
    """List the encrypted files of variables beside some inventories."""
    found = []
    for source in sources:
        place = Path(source)
        folder = place if place.is_dir() else place.parent
        for name in _FOLDERS:
            for path in sorted((folder / name).rglob("*")):
                if path.is_file() and path.open("rb").read(len(_MARK)) == _MARK:
                    full = path.absolute()
                    found.append(str(full.relative_to(Path.cwd()) if full.is_relative_to(Path.cwd()) else full))
    return found
