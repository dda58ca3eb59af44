"""Pack the app's build context on the control node and have the engine build the image, if it is not there yet."""

from __future__ import annotations

import json
import sys
import tempfile
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
        if self._task.check_mode and "id" not in given["base"]:
            return {"changed": True, "image": {"ref": project.unbuilt_image(str(given["target"]))}}
        plan = app_image.plan(project, Path(given["kit_root"]), str(given["target"]), given["base"])
        with tempfile.NamedTemporaryFile(prefix="kit-context-", suffix=".tar") as packed:
            packed.write(plan.context)
            packed.flush()
            asked = {
                **{name: value for name, value in asdict(plan).items() if name != "context"},
                "context": packed.name,
                "extra_ca_bundle": str(given["extra_ca_bundle"]),
                "min_free_bytes": int(given["min_free_bytes"]),
                "check_only": self._task.check_mode,
            }
            words = ["--request", json.dumps(asked)]
            return engine_call.call(self, Path(given["root"]), str(given["python"]), "app-image", words)
