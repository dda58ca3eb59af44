"""Run the smoke checks on the control node, for all hosts of the play at once, and report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from ansible.utils.display import Display
from kit_control import smoke, smoke_report
from kit_control.action import KitAction
from kit_control.errors import KitError


class ActionModule(KitAction):
    """Arguments: ``hosts`` (results of kit_smoke_host), ``gate`` (a deploy waits for), ``limit`` (seconds),
    ``released`` (a release is under way: what the gate finds is told, and ends it; else it is this task's failure)."""

    _requires_connection = False
    _VALID_ARGS = frozenset({"hosts", "gate", "limit", "released"})

    def work(self) -> dict[str, Any]:
        """Run and report; see the module's docstring."""
        given, task = self.inputs(), self._task.args
        gate, folder = bool(task["gate"]), self._folder()
        if gate and not any(one["was_changed"] for one in task["hosts"]) and smoke.last_was_good(folder):
            return {"skipped": True, "msg": "nothing changed since the smoke gate passed"}
        if self._task.check_mode:
            return {"skipped": True, "msg": "check mode: the smoke checks were not run"}
        plan = smoke.write_plan(folder, [one["target"] for one in task["hosts"]])
        try:
            results = smoke.run(given.root, plan, gate=gate, limit=float(task["limit"]), env=given.env)
            if not gate:
                for line in smoke_report.table(results):
                    Display().display(line)
            if not results["ok"]:
                raise smoke.failure(results, self._again(given.env))
        except KitError as error:
            if not (gate and task["released"]):
                raise
            # The release is still under way: every host is told, and goes back.
            return {"changed": False, "problem": str(error)}
        counts = [f"{host}: {smoke_report.summary(told)}" for host, told in results["hosts"].items()]
        what = "smoke gate" if gate else "smoke checks"
        self.say(f"{what}: {'; '.join(counts)} ({results['seconds']:.1f} s)")
        return {"changed": False}

    def _folder(self) -> Path:
        return Path(self._templar.template(self.variables["kit_env_folder"]))

    def _again(self, env: str) -> str:
        further = [str(source) for source in self.variables["ansible_inventory_sources"][1:]]
        return " ".join((f"make smoke ENV={env}", *(f"INVENTORY={source}" for source in further[:1])))
