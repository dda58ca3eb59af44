"""Make the secrets that an environment lacks, or replace the one that is named; no other value is ever replaced.

An action and not a module: the values are made, encrypted and written in this process alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from kit_control import secret_rotation, secret_store
from kit_control.action import KitAction
from kit_control.variables import is_required, needed_secrets


class ActionModule(KitAction):
    """Reads manifest and inventory from the variables that role release_bundle reads, and takes no arguments."""

    _requires_connection = False
    _VALID_ARGS: frozenset[str] = frozenset()

    def work(self) -> dict[str, Any]:
        """Make them; see the module's docstring."""
        given = self.inputs()
        root, env, project, settings = given.root, given.env, given.project, given.settings
        needed = needed_secrets(project.data, settings)
        writes = not self._task.check_mode
        if settings["secrets_origin"] == "generated":
            store: secret_store.Store = secret_store.PlainStore(given.folder / secret_store.LOCAL_FILE)
        else:
            store = secret_store.VaultStore(
                root / "inventories" / env / "group_vars/all/vault.yml", root / ".vault" / env, env
            )
        if settings["rotate"]:
            rotation = secret_rotation.rotate(store, settings["rotate"], project.data, settings, env)
            if writes:
                store.write(rotation.values)
            return {"changed": True, "made": [], "to_fill_in": [], "rotated": rotation.message}
        made = secret_store.fill(store, needed, writes)
        there = {*needed, *store.read()}
        unfilled = [
            name
            for name, variable in project.data["variables"].items()
            if variable["secret"] and is_required(variable, settings) and "from" not in variable and name not in there
        ]
        return {"changed": bool(made), "made": made, "to_fill_in": unfilled, "edit": store.edit, "rotated": ""}
