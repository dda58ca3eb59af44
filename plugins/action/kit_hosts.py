"""Judge which hosts are named and which version is asked for, before any of them is touched."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from kit_control import inventory_checks, site_names, source_version
from kit_control.action import SSH_PORT, KitAction
from kit_control.errors import KitError
from kit_engine import docker_socket

# An engine that is alive answers within 0.1 s.
ENGINE_SECONDS = 10
_JUMP = re.compile(r"(^|\s)-J|proxy(jump|command)", re.IGNORECASE)


class ActionModule(KitAction):
    """Arguments: ``dirty`` (a working tree with changes may be deployed)."""

    _requires_connection = False
    _VALID_ARGS = frozenset({"dirty"})

    def work(self) -> dict[str, Any]:
        """Judge; see the module's docstring."""
        given = self.inputs()
        mistakes = [*inventory_checks.host_problems(self._hosts(), given.env), *self._delivery_problems(given.env)]
        if mistakes:
            raise KitError(
                "inventory",
                "Nothing was changed; this must be mended first:\n" + "\n".join(f"  - {line}" for line in mistakes),
                f"Mend the lines above, then: make deploy ENV={given.env}",
            )
        if given.version == "HEAD":
            self._refuse_changes(given.env)
        version = source_version.version_of(given.project.source)
        told = {"sha": version.sha, "short": version.short, "ref": given.version}
        told["started"] = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        return {"changed": False, **told, "engine_answers": _engine_answers()}

    def _refuse_changes(self, env: str) -> None:
        """HEAD means what people see before them: files that it lacks would silently stay behind."""
        path = Path(self.value("kit_working_manifest_path"))
        changed = source_version.changes(path.parent)
        if changed:
            raise KitError(
                "dirty",
                f"Nothing was changed: {path.parent} has changes that no commit holds:\n"
                + "\n".join(f"  - {name}" for name in changed),
                f"git commit them; or deploy the last commit: make deploy ENV={env} VERSION=$(git rev-parse HEAD); or "
                f"the files as they are, and the release says so: make deploy ENV={env} DIRTY=1",
            )

    def _delivery_problems(self, env: str) -> list[str]:
        names = ("delivery", "registry", "registry_user", "registry_password")
        found = []
        for host in self.variables["groups"].get("app", []):
            facts = self.variables["hostvars"][host]
            inputs = {f"app_image_{name}": facts.get(f"app_image_{name}", "") for name in names}
            filled = {name: str(self._templar.template(value) or "") for name, value in inputs.items()}
            found += inventory_checks.delivery_problems(filled, env)
        return list(dict.fromkeys(found))

    def _hosts(self) -> dict[str, tuple[str, str, str]]:
        """By name: where each host of the group is reached, and its deploy root."""
        names = self.variables["groups"].get("app", [])
        if not names:
            return {}
        default = str(self.value("kit_deploy_root"))
        found = {}
        for name in names:
            facts = self.variables["hostvars"][name]

            def value(variable: str, default: object, facts: Mapping[str, Any] = facts) -> str:
                return str(self._templar.template(facts.get(variable, default)))

            way = f"{value('ansible_ssh_common_args', '')} {value('ansible_ssh_extra_args', '')}"
            # Behind two jump hosts one address is two machines.
            jump = f" by {way.strip()}" if _JUMP.search(way) else ""
            port = f"{value('ansible_port', SSH_PORT)}{jump}"
            found[name] = (value("ansible_host", name), port, value("deploy_root", default))
        address = site_names.one_address({place[0] for place in found.values()}) if len(found) > 1 else {}
        return {name: (address.get(host, host), port, root) for name, (host, port, root) in found.items()}


def _engine_answers() -> bool:
    """Whether this user may use an engine of this machine; role docker_host sorts out the rest."""
    if shutil.which("docker") and docker_socket.get("/version"):
        return True
    try:
        words = ["docker", "version", "--format", "{{.Server.Version}}"]
        done = subprocess.run(words, capture_output=True, timeout=ENGINE_SECONDS, check=False)  # noqa: S603 - ours
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
