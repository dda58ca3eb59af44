"""Look at a host once, as root, and decide what it lacks; changes nothing, and needs no Python there."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from kit_control import engine_call, host_setup
from kit_control.action import KitAction
from kit_control.errors import KitError


class ActionModule(KitAction):
    """Arguments: ``script`` (the look), ``settings`` (inputs of role host_setup without their prefix)."""

    _VALID_ARGS = frozenset({"script", "settings"})

    def work(self) -> dict[str, Any]:
        """Look and decide; see the module's docstring."""
        settings = self._task.args["settings"]
        words = [str(settings["user_name"]), str(settings["deploy_root_path"])]
        done = engine_call.run(self, Path(self._task.args["script"]).read_text(encoding="utf-8"), words)
        engine_call.demand_root(self, done)
        if "kit:" not in str(done["stdout"]):
            said = str(done["stderr"]).strip() or str(done["stdout"]).strip()
            raise KitError("host", f"{self.host} gave no answer to the look at it: {said}", f"ssh {self.address}")
        found = host_setup.read_probe(str(done["stdout"]))
        # The look's own clock was read early in it; the trip there took some of the time since.
        return {"changed": False, **host_setup.plan(found, settings, self.host, time.time())}
