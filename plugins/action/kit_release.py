"""Bring hosts to the rendered release, one phase a call: nothing where one serves that already.

Until `switch` the old release serves untouched. What goes wrong there or at the smoke gate is told to `finish`, which
ends the release well on every host, or goes back on every host. `before` and `after` run the hooks of this machine,
once for all hosts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from ansible.utils.display import Display
from kit_control import app_image, engine_call, hooks, host_lock, release_archive, smoke, source_version
from kit_control.action import Inputs, KitAction
from kit_control.errors import KitError
from kit_engine.hooks import AFTER_FAILURE, AFTER_SWITCH, BEFORE_BACKUP, BEFORE_MIGRATE
from kit_engine.pending import DEPLOY, ROLLBACK

# What the tasks of role release have registered, and what is made of it.
TARGET, PREPARED, HOOKS, LED = "release_target", "release_result", "release_hooks", "kit_release_led"
# What a phase answers with whose run was cut off, and may have come to its end on the host by itself.
_CUT_OFF = ("lock_lost", "not_prepared")


class ActionModule(KitAction):
    """Arguments: ``root``, ``python`` (as of kit_engine), ``phase`` (``before``, ``target``, ``prepare``, ``switch``,
    ``after``, ``finish``); ``before`` takes ``current``, ``started`` and ``backup`` of ``prepare``; ``target``, which
    finds out where a rollback of several hosts goes, takes its ``rollback``.

    For ``prepare``: ``in_place`` (it runs from where it was rendered: all phases at once), ``current`` (what the host
    told in preflight), ``record`` (the record of base images on this machine, empty where the host keeps its own),
    ``started`` (first part of the release's id, the same on all hosts; empty: now), ``restarts`` (services that may be
    made anew although that leaves a gap), ``backup`` (whether the database is backed up first), ``restore`` (whether
    that undoes a migration that failed); ``rollback`` instead of a rendered release: the id to go back to, empty for
    the last good one. For ``switch``: ``batch`` (hosts whose turn it is; none: all), ``problems`` (what was found on
    any host; empty ones are none). For ``finish``: ``problems``, ``held`` (what kit_lock gave, to be let go where that
    went well). These three take ``keep`` (how many releases stay); a rollback's ``prepare`` has none.
    """

    _VALID_ARGS = frozenset(
        {
            "root",
            "python",
            "phase",
            "in_place",
            "current",
            "record",
            "started",
            "restarts",
            "backup",
            "restore",
            "rollback",
        }
        | {"problems", "keep", "batch", "held"}
    )

    def work(self) -> dict[str, Any]:
        """Go through the phase; see the module's docstring."""
        phase = str(self._task.args["phase"])
        if self._task.check_mode and phase != "prepare":
            return {"skipped": True, "msg": f"check mode: phase `{phase}` was not gone through"}
        try:
            told = self._phase(phase)
        except KitError as error:
            self._failed(error.problem)
            raise
        if told.get("failed"):
            self._failed(str(told.get("problem", told["msg"])))
        for one in (told, told.get("switched") or {}):
            if one.get("message") and not told.get("failed"):
                self.say(str(one["message"]))
        return told

    def _phase(self, phase: str) -> dict[str, Any]:
        if phase == "prepare":
            told = self._prepare()
            led = told.get("switched")
            if not led:
                return told
            # Of a host alone: what both have told is summed up as of one task.
            return {**told, "record": led["record"], "seconds": {**told["seconds"], **led["seconds"]}}
        if phase == "target":
            words = ["--request", json.dumps({"rollback": str(self._task.args["rollback"] or "")})]
            return self._verb("rollback-target", words)
        if phase == "before":
            return self._before()
        if phase == "after":
            return self._after()
        if phase == "switch":
            batch = self._task.args.get("batch")
            if batch and self.variables["inventory_hostname"] not in batch:
                return self._led() or {"changed": False}
            if any(self._task.args.get("problems", ())):
                return {"changed": False, "message": "not switched: the release failed elsewhere, and all go back"}
            told = self._call({"phase": phase, "keep": int(self._task.args["keep"])})
            if told.get("failed"):
                # Not a failure yet: the other hosts must hear of it, and go back too.
                return {"changed": True, "problem": str(told["msg"]), "problem_code": told.get("code", "task")}
            return told
        return self._finish()

    def _led(self, host: str = "") -> dict[str, Any]:
        """What a host told at the switch; empty where it had none."""
        known = self.variables["hostvars"][host] if host else self.variables
        return dict(self._templar.template(known[LED]))

    def _finish(self) -> dict[str, Any]:
        problems = [str(one) for one in self._task.args["problems"] if one]
        asked = {"phase": "finish", "problem": "\n".join(problems), "keep": int(self._task.args["keep"])}
        told = self._call({**asked, "warnings": (self.variables.get(HOOKS) or {}).get("hook_warnings", [])})
        own = self._led()
        if told.get("code") == "not_prepared" and own.get("problem"):
            # It went back when its switch failed: that is what went wrong.
            return {"failed": True, "msg": str(own["problem"]), "code": str(own["problem_code"])}
        held = self._task.args.get("held") or {}
        if told.get("failed") or "token" not in held:
            return told
        freed = host_lock.free(self, held)
        warnings = [*told.get("warnings", ()), *freed.get("warnings", ())]
        return {**told, "unlocked": True, **({"warnings": warnings} if warnings else {})}

    def _before(self) -> dict[str, Any]:
        given = self.inputs()
        moments = [BEFORE_BACKUP, BEFORE_MIGRATE] if self._task.args["backup"] else [BEFORE_MIGRATE]
        if any(hooks.of(given.project, moment) for moment in moments) and self._is_due(given):
            for moment in moments:
                hooks.demand(given.project, moment, given.root, self._facts(given), self._secrets)
        return {"changed": False}

    def _is_due(self, given: Inputs) -> bool:
        """Whether any host gets a release, as its own task will find right after this."""
        source = self._source(given)
        for host in self.variables["ansible_play_hosts"]:
            known = self.variables["hostvars"][host]
            there = known["preflight_current"]
            files = release_archive.bundle_files(Path(known["kit_bundle_folder"]), source)
            if not there["serves"] or there["configuration"] != release_archive.configuration(files):
                return True
        return False

    def _after(self) -> dict[str, Any]:
        given = self.inputs()
        found = [self._led(host) for host in self.variables["ansible_play_hosts"]]
        if not hooks.of(given.project, AFTER_SWITCH) or any(one.get("problem") for one in found):
            return {"changed": False}
        record = next(one["record"] for one in found if one.get("record"))
        warnings = hooks.warnings(given.project, AFTER_SWITCH, given.root, record, self._secrets)
        for warning in warnings:
            Display().warning(warning)
        return {"changed": False, "hook_warnings": warnings}

    def _failed(self, problem: str) -> None:
        """Run this machine's hooks of a failure, once for all hosts that tell of one."""
        given, task = self.inputs(), self._task
        if task.check_mode or task.args.get("in_place") or not hooks.of(given.project, AFTER_FAILURE):
            return
        run = f"{os.getppid()} {self._templar.template(self.variables['kit_started'])}"
        if hooks.is_first(Path(self.value("kit_env_folder")), run):
            known = (self.variables.get(PREPARED) or {}).get("record")
            if not known and "rollback" in task.args:
                known = {"id": str(task.args["rollback"] or ""), "env": given.env, "kind": ROLLBACK}
            known = known or self._facts(given)
            record = {**known, "state": "failed", "reason": problem}
            for warning in hooks.warnings(given.project, AFTER_FAILURE, given.root, record, self._secrets):
                Display().warning(warning)

    def _secrets(self) -> list[str]:
        return [str(value) for value in self.inputs().settings["secret_values"].values()]

    def _call(self, request: dict[str, Any], archive: bytes | None = None) -> dict[str, Any]:
        again = self._again(request)
        try:
            told = self._verb("release", ["--request", json.dumps(request)], archive)
        except KitError as error:
            if again and error.code == "unreachable":
                raise KitError(error.code, error.problem, f"{error.remedy}, then: {again}") from error
            raise
        if again and told.get("failed") and told.get("code") in _CUT_OFF:
            return {**told, "next": again, "msg": f"{told['problem']}\nNext: {again}"}
        return told

    def _again(self, request: dict[str, Any]) -> str:
        """The command that goes on with a rollback, once it is known where it goes; empty for all else.

        Repeated without the name it could go one release further back.
        """
        known = self.variables.get(PREPARED) or {}
        goes_back = (known.get("record") or {}).get("kind") == ROLLBACK
        release = str(request.get("rollback") or (known.get("release") if goes_back else "") or "")
        return f"make rollback ENV={self.inputs().env} RELEASE={release}" if release else ""

    def _verb(self, name: str, words: list[str], stdin: bytes | None = None) -> dict[str, Any]:
        root, python = Path(self._task.args["root"]), str(self._task.args["python"])
        return engine_call.call(self, root, python, name, words, stdin=stdin)

    def _prepare(self) -> dict[str, Any]:
        if "rollback" in self._task.args:
            if self._task.check_mode:
                return {"changed": True, "message": "the host would go back to an earlier release"}
            # Preflight, which refuses what the smoke checks cannot reach, is no part of this.
            smoke.connection_of(self)
            asked = {"rollback": self._target(), "switch": self._is_alone()}
            told = self._call({"phase": "prepare", **asked})
            # What the smoke checks compare with; the next deploy renders anew.
            folder = self.inputs().folder
            for name, text in told.pop("files", {}).items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            return told
        return self._in_place() if self._task.args["in_place"] else self._on_host()

    def _target(self) -> str:
        """Where a rollback goes, one and the same on all hosts; empty where a host alone finds that out by itself."""
        known = self.variables["hostvars"]
        found = {host: known[host].get(TARGET) or {} for host in self.variables["ansible_play_hosts"]}
        wanted = {host: str(told["release"]) for host, told in found.items() if told.get("release")}
        ids = sorted(set(wanted.values()))
        if len(ids) > 1:
            env = self.inputs().env
            raise KitError(
                "rollback",
                "The last good release before the one that serves is not the same on all hosts:\n"
                + "\n".join(f"  - {host}: {release}" for host, release in wanted.items())
                + "\nNothing was changed.",
                f"make releases ENV={env}    (which one all have), then: make rollback ENV={env} RELEASE=<id>",
            )
        return ids[0] if ids else str(self._task.args["rollback"] or "")

    def _in_place(self) -> dict[str, Any]:
        if self._task.check_mode:
            return {"skipped": True, "msg": "check mode: the engine's `up` was not run"}
        # Where it is not a session that holds the lock: the whole deploy is this one step.
        words = ["--wait", str(self.variables.get("lock_wait_seconds", 0))]
        return engine_call.call(self, Path(self._task.args["root"]), str(self._task.args["python"]), "up", words)

    def _on_host(self) -> dict[str, Any]:
        given, task = self.inputs(), self._task.args
        files = release_archive.bundle_files(given.folder, self._source(given))
        wanted = release_archive.configuration(files)
        there = task["current"]
        same = there["configuration"] == wanted
        if same and there["serves"]:
            text = f"{given.project.name} ({given.env}) is up to date: release {there['id']}"
            return {"changed": False, "release": there["id"], "message": text}
        if self._task.check_mode:
            what = f"release {there['id']} would be brought up again" if same else "a new release would be deployed"
            return {"changed": True, "message": what}
        asked = {
            **self._facts(given),
            "phase": "prepare",
            "configuration": "" if same else wanted,
            "current": there["id"],
            "restarts": [name for name in str(task["restarts"]).replace(",", " ").split() if name],
            "backup": bool(task["backup"]),
            "restore": bool(task["restore"]),
            "switch": self._is_alone(),
            "keep": int(task["keep"]),
        }
        archive = None if same else release_archive.pack(files, self._beside(given))
        return self._call(asked, archive)

    def _is_alone(self) -> bool:
        """Whether no other host has to be prepared before this one switches: then one call does both."""
        return len(self.variables["ansible_play_hosts"]) == 1

    def _source(self, given: Inputs) -> dict[str, release_archive.Entry] | None:
        """The project's files, where the host mounts them over the image."""
        mounted = self.value("release_bundle_source") == "read_only"
        return app_image.project_files(given.project, given.root) if mounted else None

    def _facts(self, given: Inputs) -> dict[str, Any]:
        """What a release's record begins with."""
        version = source_version.version_of(given.project.source)
        started = str(self._task.args.get("started") or time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
        return {
            "id": f"{started}-{version.short}",
            "env": given.env,
            "ref": given.version,
            "sha": version.sha,
            "dirty": bool(version.changed) or not version.sha,
            # Not out of all settings, which are a hundred templates.
            "image": str(self.value("release_bundle_images")["app"]),
            "who": host_lock.who(),
            "kind": DEPLOY,
            "state": "running",
        }

    def _beside(self, given: Inputs) -> dict[str, release_archive.Entry]:
        beside = {"docker-manage.sh": ((given.root / "docker-manage.sh").read_bytes(), 0o755)}
        record = str(self._task.args.get("record") or "")
        if record:
            beside["records/base_images.json"] = (Path(record).read_bytes(), 0o644)
        return beside
