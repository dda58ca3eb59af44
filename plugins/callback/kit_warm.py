"""Read the project once, in Ansible's own process: each task runs in a fork of it, and would read it again."""

from __future__ import annotations

import gc
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from ansible import context
from ansible.errors import AnsibleError
from ansible.plugins.callback import CallbackBase
from ansible.template import Templar

# What the action plugins import; loaded here, it is there in every fork.
from kit_control import app_image, engine_call, hooks, inventory_checks, locked_vault, rendering, site_names, smoke  # noqa: F401
from kit_control.environment import environment_name

# Of playbooks/group_vars/all/kit.yml and two roles: what stays the same for a host, each before what is made of it.
WIRING = (
    *("kit_root", "kit_env", "kit_build_root", "kit_version", "kit_working_manifest_path", "kit_manifest_path"),
    *("kit_manifest", "kit_deploy_root", "kit_env_folder", "kit_in_place", "kit_bundle_folder", "kit_image_delivery"),
    *("kit_image_host", "kit_image_root", "kit_base_images_record", "base_images_planned", "app_image_planned"),
)

# The action of what the smoke gate follows.
RELEASES = "kit_release"

DOCUMENTATION = """
name: kit_warm
type: aggregate
short_description: Reads the project before tasks do
description:
  - Saves half a second of processor time a task; changes nothing else.
"""


class CallbackModule(CallbackBase):
    """See the module's docstring."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "kit_warm"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._filled: set[tuple[str, str]] = set()
        # The kit's folder, and what is rendered for the environment.
        self._folders: tuple[Path, Path] | None = None

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Fill in the wiring of each host: a template is compiled at each reading, and these are read everywhere."""
        manager = play.get_variable_manager()
        localhost = manager._inventory.get_host("localhost")
        try:
            manager.get_vars(play=play, host=localhost)
        except AnsibleError as error:
            # Ansible meets it right after this, and ends; it names neither the file nor what to type.
            sources = context.CLIARGS["inventory"] or ()
            explained = locked_vault.explain(error, sources, environment_name(sources))
            if explained:
                self._display.error(str(explained), wrap_text=False)
            return
        for host in manager._inventory.get_hosts(play.hosts):
            variables = manager.get_vars(play=play, host=host)
            templar = Templar(play.get_loader(), variables=variables)
            known = {name for of, name in self._filled if of == host.name}
            filled = {}
            for name in (name for name in WIRING if name in variables and name not in known):
                # A mistake in it, or what only a later play knows, is told by the task that reads it.
                with suppress(AnsibleError):
                    filled[name] = variables[name] = templar.template(variables[name])
            manager.set_nonpersistent_facts(host.name, filled)
            self._filled |= {(host.name, name) for name in filled}
            if {"kit_root", "kit_env_folder"} <= set(filled):
                self._folders = Path(str(filled["kit_root"])), Path(str(filled["kit_env_folder"]))
        engine_call.archive_and_sum()
        # What is there by now, a fork's collector passes over: its pages stay the parent's.
        gc.freeze()
        gc.enable()

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002 - Ansible gives it
        """Load the gate's checks while the hosts are at work on what they will check."""
        if task.action == RELEASES and "rollback" in task.args:
            # Not beside one: processors have a release to bring up that visitors wait for.
            self._folders = None
        if task.action == RELEASES and self._folders and not context.CLIARGS["check"]:
            smoke.begin_ahead(*self._folders)
