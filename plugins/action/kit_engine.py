"""Call one verb of the engine on the host and turn its JSON answer into the task's result.

An action and not a module: the archive is packed from this kit's sources, on the control node; on the host nothing but
the engine itself is started, and its own message is the one that users read.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from kit_control import engine_call
from kit_control.action import KitAction

# These judge what is there, and change nothing when their request says so.
_ASK_IN_CHECK_MODE = ("base-images",)


class ActionModule(KitAction):
    """Arguments: ``root`` (deploy root), ``python`` (interpreter there), ``verb``, ``request`` (of the verb)."""

    _VALID_ARGS = frozenset({"root", "python", "verb", "request"})

    def work(self) -> dict[str, Any]:
        """Call the verb; see the module's docstring."""
        given = self._task.args
        verb, request = str(given["verb"]), given.get("request")
        if self._task.check_mode and verb not in _ASK_IN_CHECK_MODE:
            return {"skipped": True, "msg": f"check mode: the engine's `{verb}` was not run"}
        if self._task.check_mode:
            # Of this one task too, as a plan has it: the variable ansible_check_mode knows whole playbooks only.
            request = {**(request or {}), "check_only": True}
        words = [] if request is None else ["--request", json.dumps(request)]
        return engine_call.call(self, Path(given["root"]), str(given["python"]), verb, words)
