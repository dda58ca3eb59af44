"""Have a host to ourselves, before anything on it is changed: refused with the holder's name, or after a wait."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from kit_control import host_lock
from kit_control.action import KitAction
from kit_control.errors import KitError


class ActionModule(KitAction):
    """Arguments: ``root``, ``python`` (as of kit_engine), ``order`` (attributes of kit_control.host_lock.Order),
    ``bare`` (it may lack what a lock wants: login, root, Python; it is left to the next step then, which judges all).
    """

    _VALID_ARGS = frozenset({"root", "python", "order", "bare"})

    def work(self) -> dict[str, Any]:
        """Take the lock; see the module's docstring."""
        if self._task.check_mode:
            return {"skipped": True, "msg": "check mode: nothing is changed, so nothing is locked"}
        given = self._task.args
        try:
            return host_lock.take(self, Path(given["root"]), str(given["python"]), host_lock.ordered(given["order"]))
        except KitError:
            if not given["bare"]:
                raise
            return {"changed": False}
