"""Bring a host to the rendered release, one phase a call: nothing where it serves that already.

Until `switch` the old release serves untouched. What goes wrong there or at the smoke gate is told to `finish`, which
ends the release well on every host, or goes back on every host.
"""

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
    """Arguments: ``root``, ``python`` (as of kit_engine), ``phase`` (``prepare``, ``switch``, ``finish``).

    For ``prepare``: ``in_place`` (it runs from where it was rendered: all phases at once), ``current`` (what the host
    told in preflight), ``record`` (the record of base images on this machine, empty where the host keeps its own),
    ``started`` (first part of the release's id, the same on all hosts; empty: now), ``restarts`` (services that may be
    made anew although that leaves a gap), ``backup`` (whether the database is backed up first); ``rollback`` instead of
    a rendered release: the id to go back to, empty for the last good one. For ``finish``: ``problems`` (what was found
    on any host; empty ones are none), ``keep`` (how many releases stay).
    """

    _VALID_ARGS = frozenset(
        {"root", "python", "phase", "in_place", "current", "record", "started", "restarts", "backup", "rollback"}
        | {"problems", "keep"}
    )

    def work(self) -> dict[str, Any]:
        """Go through the phase; see the module's docstring."""
        phase = str(self._task.args["phase"])
        if phase == "prepare":
            told = self._prepare()
        elif self._task.check_mode:
            return {"skipped": True, "msg": f"check mode: phase `{phase}` was not gone through"}
        elif phase == "switch":
            told = self._call({"phase": phase})
            if told.get("failed"):
                # Not a failure yet: the other hosts must hear of it, and go back too.
                return {"changed": True, "problem": str(told["msg"]), "problem_code": told.get("code", "task")}
        else:
            problems = [str(one) for one in self._task.args["problems"] if one]
            told = self._call({"phase": phase, "problem": "\n".join(problems), "keep": int(self._task.args["keep"])})
        if not told.get("failed") and told.get("message"):
            self.say(str(told["message"]))
        return told

    def _call(self, request: dict[str, Any], archive: bytes | None = None) -> dict[str, Any]:
        root, python = Path(self._task.args["root"]), str(self._task.args["python"])
        return engine_call.call(self, root, python, "release", ["--request", json.dumps(request)], stdin=archive)

    def _prepare(self) -> dict[str, Any]:
        if "rollback" in self._task.args:
            if self._task.check_mode:
                return {"changed": True, "message": "the host would go back to an earlier release"}
            told = self._call({"phase": "prepare", "rollback": str(self._task.args["rollback"] or "")})
            # What the smoke checks compare with; the next deploy renders anew.
            folder = self.inputs().folder
            for name, text in told.pop("files", {}).items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            return told
        return self._in_place() if self._task.args["in_place"] else self._on_host()

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
            "phase": "prepare",
            "id": f"{started}-{version.short}",
            "configuration": "" if same else wanted,
            "current": there["id"],
            "restarts": [name for name in str(task["restarts"]).replace(",", " ").split() if name],
            "backup": bool(task["backup"]),
            "env": given.env,
            "ref": given.version,
            "sha": version.sha,
            "dirty": bool(version.changed) or not version.sha,
            "image": str(given.settings["images"]["app"]),
            "who": host_lock.who(),
        }
        archive = None if same else release_archive.pack(files, self._beside(given))
        return self._call(asked, archive)

    def _beside(self, given: Inputs) -> dict[str, release_archive.Entry]:
        beside = {"docker-manage.sh": ((given.root / "docker-manage.sh").read_bytes(), 0o755)}
        record = str(self._task.args.get("record") or "")
        if record:
            beside["records/base_images.json"] = (Path(record).read_bytes(), 0o644)
        return beside
