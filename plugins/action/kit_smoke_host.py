"""Write down for the smoke checks how a host is reached, and what is to be found there; nothing is done on the host."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from kit_control import smoke
from kit_control.action import KitAction
from kit_control.errors import KitError

LOOPBACK = "127.0.0.1"


class ActionModule(KitAction):
    """Arguments: ``root``, ``python`` (as of kit_engine), and the role's inputs ``address``, ``ports``, ``open_ports``,
    ``writes``, ``trust_file``, ``self_signed``, ``changed``."""

    _VALID_ARGS = frozenset(
        {"root", "python", "address", "ports", "open_ports", "writes", "trust_file", "self_signed", "changed"}
    )

    def work(self) -> dict[str, Any]:
        """Describe the host; see the module's docstring."""
        given, task = self.inputs(), self._task.args
        connection = smoke.connection_of(self)
        if not (given.folder / "stack.json").is_file():
            raise KitError(
                "smoke",
                f"{given.folder} holds no rendered files of {self.host}: nothing was deployed from here yet.",
                f"make deploy ENV={given.env}",
            )
        if self._play_context.become and self._play_context.become_pass:
            raise KitError(
                "smoke",
                f"The smoke checks become root on {self.host} without a password, and one was given.",
                "allow sudo without a password for the login user (make provision does)",
            )
        trust = str(task["trust_file"] or "")
        target = {
            "host": self.host,
            "env": given.env,
            "connection": connection,
            "become": bool(self._play_context.become),
            "root": str(task["root"]),
            "python": str(task["python"]),
            "bundle": str(given.folder),
            "project": smoke.expectations(given.project),
            "address": str(task["address"] or connection["address"] or LOOPBACK),
            "ports": {str(port): int(seen) for port, seen in task["ports"].items()},
            "open_ports": [int(port) for port in task["open_ports"]],
            "writes": bool(task["writes"]),
            "trust_file": str(Path(trust).absolute()) if trust else "",
            "self_signed": bool(task["self_signed"]),
        }
        return {"changed": False, "target": target, "was_changed": bool(task["changed"])}
