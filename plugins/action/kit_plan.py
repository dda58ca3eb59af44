"""Show what a deploy would do to a host, in one call of the engine there; nothing is written, here or there.

With ``list_migrations`` the new image on this machine is asked for its migrations instead, for the call that follows.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from kit_control import bundle, engine_call, planning, release_archive
from kit_control.action import Inputs, KitAction
from kit_control.context import Stack
from kit_control.rendering import stack_of
from kit_engine.plan import Request


class ActionModule(KitAction):
    """Arguments: ``root``, ``python`` (as of kit_engine), ``in_place`` (the stack runs from its deploy root),
    ``list_migrations``, ``migrations`` (what that told)."""

    _VALID_ARGS = frozenset({"root", "python", "in_place", "list_migrations", "migrations"})

    def work(self) -> dict[str, Any]:
        """Render and ask; see the module's docstring."""
        given = self.inputs()
        stack, _, _ = stack_of(given, writes=False)
        if self._task.args.get("list_migrations", False):
            return self._call("image-migrations", self._image(given, stack))
        files = planning.files_of(given, bundle.render(stack, given.root))
        known = self._task.args.get("migrations") or {}
        asked = Request(
            configuration=release_archive.configuration(files),
            in_place=bool(self._task.args.get("in_place", False)),
            secrets=planning.secret_names(given.project.data),
            environment=planning.environment(given.project.data, stack),
            scratch=planning.SCRATCH,
            migrations=known.get("migrations"),
            reason=str(known.get("reason", "")),
        )
        return self._call("plan", asdict(asked), release_archive.pack(files, {}))

    def _image(self, given: Inputs, stack: Stack) -> dict[str, Any]:
        mounted = given.settings["source"] != "image"
        return {
            "reference": str(given.settings["images"]["app"]),
            "manage": stack.description["manage"],
            "environment": planning.environment(given.project.data, stack),
            "scratch": planning.SCRATCH,
            "source": str(given.project.source) if mounted else "",
        }

    def _call(self, verb: str, asked: dict[str, Any], stdin: bytes | None = None) -> dict[str, Any]:
        given = self._task.args
        words = ["--request", json.dumps(asked)]
        return engine_call.call(self, Path(given["root"]), str(given["python"]), verb, words, stdin=stdin)
