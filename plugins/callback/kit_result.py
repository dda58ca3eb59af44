"""Write build/<env>/result.json at the end of a playbook; end a plan with its verdict, a deploy with its summary."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from ansible import constants, context
from ansible.errors import AnsibleError
from ansible.plugins.callback import CallbackBase
from kit_control import locked_vault
from kit_control.environment import environment_name
from kit_control.errors import KitError
from kit_control.result_file import Outcome

# Their own files are their result; they must not take a deploy's away.
_OF_NO_HOST = ("render", "secrets")

DOCUMENTATION = """
name: kit_result
type: aggregate
short_description: The result of a playbook as a file
description:
  - Writes C(build/<env>/result.json), and after a plan C(build/<env>/plan.json), for pipelines; prints the plan, or the
    summary of a deploy or rollback.
  - Check mode writes nothing.
"""


class CallbackModule(CallbackBase):
    """See the module's docstring; what is written is gathered in kit_control.result_file."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "kit_result"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._playbook, self._folder = "", Path()
        self._outcome: Outcome | None = None
        self._of_hosts = False

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Remember which one it is."""
        path = Path(playbook._file_name).resolve()
        self._playbook, self._folder = path.stem, path.parent

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Find the environment's folder, as the playbook's own variables name it."""
        # What a play on this machine alone tells is no host's.
        self._of_hosts = "localhost" not in play.hosts
        ours = self._playbook not in _OF_NO_HOST and (self._folder / "group_vars/all/kit.yml").is_file()
        if self._outcome is not None or context.CLIARGS.get("check") or not ours:
            return
        # As playbooks/group_vars/all/kit.yml has it; the variables of a group are nobody's before there is a host.
        try:
            env = environment_name(context.CLIARGS["inventory"] or ())
        except KitError:
            return
        manager = play.get_variable_manager()
        given = manager.get_vars(play=play).get("kit_build_root", self._folder.parent / "build")
        self._outcome = Outcome(self._playbook, env, Path(str(given), env))
        self._outcome.begin()
        try:
            manager.get_vars(play=play, host=manager._inventory.get_host("localhost"))
        except AnsibleError as error:
            # Ansible ends right after this, without a word to callbacks; kit_warm says it to people.
            explained = locked_vault.explain(error, context.CLIARGS["inventory"] or (), env)
            if explained:
                self._outcome.failed("localhost", "Read the inventory", {"code": explained.code, "msg": str(explained)})
                self._outcome.write()

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002 - Ansible's own
        """Take the time."""
        # `meta` is no step: it runs in Ansible itself.
        if self._outcome and task.action not in constants._ACTION_META:
            self._outcome.step(task.get_name())

    def v2_runner_on_ok(self, result: Any) -> None:
        """Take what went well."""
        if self._outcome and self._of_hosts:
            self._outcome.done(result.host.get_name(), result.result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Take what failed."""
        if self._outcome and not ignore_errors:
            self._outcome.failed(result.host.get_name(), result.task_name, result.result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Take a host that could not be reached."""
        if self._outcome:
            self._outcome.failed(result.host.get_name(), result.task_name, result.result, unreachable=True)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Write the files, after all has been told."""
        if self._outcome is None:
            return
        for name, entry in self._outcome.hosts.items():
            told = stats.summarize(name)
            entry.changed = bool(told["changed"])
            if not entry.ok and not told["failures"] and not told["unreachable"]:
                self._outcome.rescued(name)
        self._outcome.write()
        for line in self._outcome.plan_lines() + self._outcome.closing_lines():
            self._display.display(line)
