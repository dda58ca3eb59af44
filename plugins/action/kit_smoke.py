"""Run the smoke checks on the control node, for all hosts of the play at once, and report.

Each host's task writes down how it is reached, and what is to be found there; nothing is done on the host. A host alone
is checked in the same step.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from ansible.utils.display import Display
from kit_control import smoke, smoke_report
from kit_control.action import KitAction
from kit_control.errors import KitError

LOOPBACK = "127.0.0.1"


class ActionModule(KitAction):
    """Arguments: ``gate`` (a deploy waits for), ``limit`` (seconds), ``released`` (a release is under way: what the
    gate finds is told, and ends it; else it is this task's failure).

    Of a host: ``root``, ``python`` (as of kit_engine), ``alone`` (no other is checked with it), and the role's inputs
    ``address``, ``ports``, ``open_ports``, ``writes``, ``trust_file``, ``self_signed``, ``changed``. Of all: ``hosts``
    (the results of theirs).
    """

    _VALID_ARGS = frozenset(
        {"root", "python", "address", "ports", "open_ports", "writes", "trust_file", "self_signed", "changed", "alone"}
        | {"hosts", "gate", "limit", "released"}
    )

    def work(self) -> dict[str, Any]:
        """Write down, or run and report; see the module's docstring."""
        if self._task.check_mode:
            return {"skipped": True, "msg": "check mode: the smoke checks were not run"}
        try:
            return self._work()
        except Exception as error:
            if not (self._task.args["gate"] and self._task.args["released"]):
                raise
            # The release is still under way, and nobody would end it: every host is told, and goes back.
            cause = (
                "" if isinstance(error, KitError) else f"The smoke gate came to no verdict: {type(error).__name__}: "
            )
            return {"changed": False, "problem": f"{cause}{error}"}

    def _work(self) -> dict[str, Any]:
        if "hosts" in self._task.args:
            return self._check(self._task.args["hosts"])
        described = self._describe()
        return {**described, **(self._check([described]) if self._task.args["alone"] else {})}

    def _describe(self) -> dict[str, Any]:
        given, task = self.inputs(), self._task.args
        connection = smoke.connection_of(self)
        if not (given.folder / "stack.json").is_file():
            raise KitError(
                "smoke",
                f"{given.folder} holds no rendered files of {self.host}: nothing was deployed from here yet.",
                f"make deploy ENV={given.env}",
            )
        expected, warning = smoke.promised(given.folder, given.project)
        if warning:
            Display().warning(f"{self.host}: {warning}")
        trust = str(task["trust_file"] or "")
        target = {
            "host": self.host,
            "env": given.env,
            "connection": connection,
            "become": bool(self._play_context.become),
            "root": str(task["root"]),
            "python": str(task["python"]),
            "bundle": str(given.folder),
            "project": expected,
            "address": str(task["address"] or connection["address"] or LOOPBACK),
            "ports": {str(port): int(seen) for port, seen in task["ports"].items()},
            "open_ports": [int(port) for port in task["open_ports"]],
            "writes": bool(task["writes"]),
            "trust_file": str(Path(trust).absolute()) if trust else "",
            "self_signed": bool(task["self_signed"]),
        }
        return {"changed": False, "target": target, "was_changed": bool(task["changed"])}

    def _check(self, hosts: list[dict[str, Any]]) -> dict[str, Any]:
        given, task = self.inputs(), self._task.args
        gate, folder = bool(task["gate"]), self._folder()
        problems = [str(one["problem"]) for one in hosts if one.get("problem")]
        if problems:
            return {"changed": False, "problem": "\n".join(problems)}
        if gate and not any(one["was_changed"] for one in hosts) and smoke.last_was_good(folder):
            return {"skipped": True, "msg": "nothing changed since the smoke gate passed"}
        plan = smoke.write_plan(folder, [one["target"] for one in hosts])
        results = smoke.run(given.root, plan, gate=gate, limit=float(task["limit"]), env=given.env)
        if not gate:
            for line in smoke_report.table(results):
                Display().display(line)
        if not results["ok"]:
            raise smoke.failure(results, self._again(given.env))
        counts = [f"{host}: {smoke_report.summary(told)}" for host, told in results["hosts"].items()]
        what = "smoke gate" if gate else "smoke checks"
        self.say(f"{what}: {'; '.join(counts)} ({results['seconds']:.1f} s)")
        return {"changed": False}

    def _folder(self) -> Path:
        return Path(self._templar.template(self.variables["kit_env_folder"]))

    def _again(self, env: str) -> str:
        further = [str(source) for source in self.variables["ansible_inventory_sources"][1:]]
        return " ".join((f"make smoke ENV={env}", *(f"INVENTORY={source}" for source in further[:1])))
