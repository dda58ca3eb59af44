"""Have a host to ourselves, before anything on it is changed: refused with the holder's name, or after a wait."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from kit_control import host_lock
from kit_control.action import KitAction


class ActionModule(KitAction):
    """Arguments: ``root``, ``python`` (as of kit_engine), ``order`` (attributes of kit_control.host_lock.Order)."""

    _VALID_ARGS = frozenset({"root", "python", "order"})

    def work(self) -> dict[str, Any]:
        """Take the lock; see the module's docstring."""
        if self._task.check_mode:
            return {"skipped": True, "msg": "check mode: nothing is changed, so nothing is locked"}
        given = self._task.args
        return host_lock.take(self, Path(given["root"]), str(given["python"]), host_lock.ordered(given["order"]))
