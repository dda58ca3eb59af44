"""Let go of the host that kit_lock took, at the end of a deploy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from kit_control import host_lock
from kit_control.action import KitAction


class ActionModule(KitAction):
    """Argument: ``held`` (what kit_lock gave)."""

    _requires_connection = False
    _VALID_ARGS = frozenset({"held"})

    def work(self) -> dict[str, Any]:
        """End the session; see the module's docstring."""
        return host_lock.free(self, self._task.args["held"])
