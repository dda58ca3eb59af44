"""Action plugins of the kit, without Ansible around them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kit_control.action import KitAction

from support.kit import ROOT


def action(name: str, folder: Path, task: dict[str, Any], *, password: str = "", **variables: Any) -> KitAction:
    """Make one at a task that becomes root on this machine.

    Args:
        name: of the plugin.
        folder: where the host's rendered files are.
        task: its arguments.
        password: for sudo.
        variables: of the task.
    """
    spec = importlib.util.spec_from_file_location(name, ROOT / f"plugins/action/{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: KitAction = module.ActionModule.__new__(module.ActionModule)
    made._task = SimpleNamespace(args=task, check_mode=False)
    made._play_context = SimpleNamespace(become=True, become_pass=password)
    made._connection = SimpleNamespace(transport="local")
    made.variables = {"inventory_hostname": "one", "ansible_play_hosts": ["one"], **variables}
    made.variables = {"hostvars": {"one": made.variables}, **made.variables}
    project = SimpleNamespace(hooks={}, data={"hooks": {}})
    given = SimpleNamespace(root=ROOT, env="prod", folder=folder, project=project)
    made.inputs = lambda: given  # type: ignore[method-assign,assignment,return-value]  # as far as it is read
    made._folder = lambda: folder
    return made
