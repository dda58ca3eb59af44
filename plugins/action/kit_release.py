"""Bring a host to the rendered release: nothing where it serves that already, else one call delivers and starts it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from kit_control import app_image, engine_call, host_lock, release_archive, source_version
from kit_control.action import Inputs, KitAction


class ActionModule(KitAction):
    """Arguments: ``root``, ``python`` (as of kit_engine), ``in_place`` (it runs from where it was rendered),
    ``current`` (what the host told in preflight), ``record`` (the record of base images on this machine, empty where
    the host keeps its own), ``started`` (first part of the release's id, the same on all hosts; empty: now)."""

    _VALID_ARGS = frozenset({"root", "python", "in_place", "current", "record", "started"})

    def work(self) -> dict[str, Any]:
        """Compare, deliver, start, and say where it is; see the module's docstring."""
        told = self._in_place() if self._task.args["in_place"] else self._on_host()
        if not told.get("failed") and told.get("message"):
            self.say(str(told["message"]))
        return told

    def _in_place(self) -> dict[str, Any]:
        if self._task.check_mode:
            return {"skipped": True, "msg": "check mode: the engine's `up` was not run"}
        # Where it is not a session that holds the lock: the whole deploy is this one step.
        words = ["--wait", str(self.variables.get("lock_wait_seconds", 0))]
        return engine_call.call(self, Path(self._task.args["root"]), str(self._task.args["python"]), "up", words)

    def _on_host(self) -> dict[str, Any]:
        given, task = self.inputs(), self._task.args
        mounted = self.value("release_bundle_source") == "read_only"
        source = app_image.project_files(given.project, given.root) if mounted else None
        files = release_archive.bundle_files(given.folder, source)
        wanted = release_archive.configuration(files)
        there = task["current"]
        same = there["configuration"] == wanted
        if same and there["serves"]:
            text = f"{given.project.name} ({given.env}) is up to date: release {there['id']}"
            return {"changed": False, "release": there["id"], "message": text}
        if self._task.check_mode:
            what = f"release {there['id']} would be brought up again" if same else "a new release would be deployed"
            return {"changed": True, "message": what}
        version = source_version.version_of(given.project.source)
        started = str(task.get("started") or time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
        asked = {
            "id": f"{started}-{version.short}",
            "configuration": "" if same else wanted,
            "env": given.env,
            "ref": given.version,
            "sha": version.sha,
            "dirty": bool(version.changed) or not version.sha,
            "image": str(given.settings["images"]["app"]),
            "who": host_lock.who(),
        }
        archive = None if same else release_archive.pack(files, self._beside(given))
        words = ["--request", json.dumps(asked)]
        return engine_call.call(self, Path(task["root"]), str(task["python"]), "release", words, stdin=archive)

    def _beside(self, given: Inputs) -> dict[str, release_archive.Entry]:
        beside = {"docker-manage.sh": ((given.root / "docker-manage.sh").read_bytes(), 0o755)}
        record = str(self._task.args.get("record") or "")
        if record:
            beside["records/base_images.json"] = (Path(record).read_bytes(), 0o644)
        return beside
