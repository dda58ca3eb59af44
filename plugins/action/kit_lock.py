"""Have a host to ourselves, before anything on it is changed: refused with the holder's name, or after a wait."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from kit_control import host_lock, host_session
from kit_control.action import KitAction


class ActionModule(KitAction):
    """Arguments: ``root``, ``python`` (as of kit_engine), ``command`` (what was typed), ``wait`` (seconds),
    ``ahead`` (whether a backup will be made: what takes long of it is started meanwhile)."""

    _VALID_ARGS = frozenset({"root", "python", "command", "wait", "ahead"})

    def work(self) -> dict[str, Any]:
        """Take the lock; see the module's docstring."""
        if self._task.check_mode:
            return {"skipped": True, "msg": "check mode: nothing is changed, so nothing is locked"}
        given = self._task.args
        root, python = Path(given["root"]), str(given["python"])
        told = host_lock.take(self, root, python, str(given["command"]), float(given["wait"]))
        if given.get("ahead") and told.get("token") and not told["brought"]:
            words = ["--root", str(root), "ahead", "--json", "--request", "{}", "--session", str(told["token"])]
            host_session.leave_with(str(told["keeper"]), words)
        return told
