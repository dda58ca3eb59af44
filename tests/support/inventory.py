"""The role's inputs as Ansible resolves them, without starting it: what hundreds of cases need to stay quick."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader, init_plugin_loader
from ansible.template import Templar, trust_as_template
from kit_control import inputs, inventory_checks, manifest
from kit_control.context import build
from kit_control.settings import Settings

from support.kit import IMAGES, ROOT


@cache
def _plugins() -> None:
    init_plugin_loader()
    filter_loader.add_directory(str(ROOT / "plugins/filter"))


def _trusted(value: Any) -> Any:
    """Mark text from our own files as templates, the way Ansible marks what it loads."""
    if isinstance(value, dict):
        return {key: _trusted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_trusted(inner) for inner in value]
    return trust_as_template(value) if isinstance(value, str) else value


def variables_of(env: str, changes: Mapping[str, Any]) -> Templar:
    """Resolve the variables of an environment: role defaults, its inventory, the wiring, then changes.

    Args:
        env: name of an environment of the repository.
        changes: extra variables, which win over all.
    """
    _plugins()
    files = [ROOT / "roles/release_bundle/defaults/main.yml"]
    folder = ROOT / f"inventories/{env}/group_vars/all"
    files += sorted(path for path in folder.glob("*.yml") if path.name != "vault.yml")
    files += [ROOT / "playbooks/group_vars/all/kit.yml"]
    variables: dict[str, Any] = {
        "playbook_dir": str(ROOT / "playbooks"),
        "ansible_inventory_sources": [str(ROOT / f"inventories/{env}")],
        "ansible_playbook_python": "python3",
        "inventory_hostname": "localhost",
        "project_dirty": True,
    }
    for file in files:
        variables.update(_trusted(yaml.safe_load(file.read_text()) or {}))
    variables.update(changes)
    return Templar(DataLoader(), variables=variables)


def settings_of(env: str, changes: Mapping[str, Any]) -> Settings:
    """Read the inputs of role release_bundle; arguments as of :func:`variables_of`."""
    templar = variables_of(env, changes)
    names = templar.available_variables
    return inputs.read(ROOT, env, names, lambda name: templar.template(names[name]))


def problems_of(path: Path, env: str, changes: Mapping[str, Any]) -> list[str]:
    """List what preflight finds wrong with a manifest in an environment."""
    project, settings = manifest.load(path), settings_of(env, changes)
    images = {**IMAGES, **settings["images"]}
    stack = build(project, settings, env, images)
    return inventory_checks.problems(project, settings, stack, env, images)
