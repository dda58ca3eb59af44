"""Pack the app's build context on the control node and have the engine build the image, if it is not there yet."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from kit_control import app_image, engine_call, manifest
from kit_control.action import KitAction


class ActionModule(KitAction):
    """Arguments: ``root``, ``python`` (as of kit_engine), and what kit_control.app_image.plan and the verb take."""

    _VALID_ARGS = frozenset(
        {"root", "python", "kit_root", "manifest", "target", "base", "extra_ca_bundle", "min_free_bytes"}
    )

    def work(self) -> dict[str, Any]:
        """Pack and build; see the module's docstring."""
        given = self._task.args
        project = manifest.load(Path(given["manifest"]))
        plan = app_image.plan(project, Path(given["kit_root"]), str(given["target"]), given["base"])
        asked = {
            **{name: value for name, value in asdict(plan).items() if name != "context"},
            "extra_ca_bundle": str(given["extra_ca_bundle"]),
            "min_free_bytes": int(given["min_free_bytes"]),
        }
        # The context, some megabytes, travels only where it is needed.
        if self._task.check_mode or self.is_remote:
            found = self._ask({**asked, "check_only": True})
            if self._task.check_mode or found.get("failed") or not found["changed"]:
                return found
        return self._ask({**asked, "check_only": False}, plan.context)

    def _ask(self, asked: dict[str, Any], context: bytes | None = None) -> dict[str, Any]:
        given, words = self._task.args, ["--request", json.dumps(asked)]
        return engine_call.call(self, Path(given["root"]), str(given["python"]), "app-image", words, stdin=context)
