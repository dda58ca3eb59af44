"""Judge a project and its inventory, and render the bundle on the control node, in one step.

Its result names the folder and holds the stack's description (no secret), for the engine on the host, and the
references of the images that its services run.

An action and not a module: it needs every input of role release_bundle and runs where Ansible does, so the inputs
(secrets among them) never leave this process, and no interpreter is started.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from ansible.errors import AnsibleError
from kit_control import bundle, host_lock, inputs, inventory_checks, planning, release_archive
from kit_control.action import KitAction
from kit_control.context import Stack
from kit_control.errors import KitError
from kit_control.rendering import images_of, stack_of


class ActionModule(KitAction):
    """Arguments: ``only_check`` (judge, write nothing; a session is opened on the host meanwhile), ``deploy`` (a value
    that is lacking is an error), ``root``, ``python`` (as of kit_engine; for the session)."""

    _requires_connection = False
    _VALID_ARGS = frozenset({"only_check", "deploy", "root", "python"})

    def work(self) -> dict[str, Any]:
        """Judge and render; see the module's docstring."""
        if not self._task.args.get("only_check", False):
            return self._work()
        opened: dict[str, Any] = {}
        given = self._task.args

        def connect() -> None:
            with suppress(KitError, AnsibleError):
                opened.update(host_lock.open_session(self, Path(given["root"]), str(given["python"])))

        # Judging takes as long as connecting to the host, which is asked next.
        with self.beside(connect):
            done = self._work()
        return {**done, "session": opened}

    def _work(self) -> dict[str, Any]:
        given = self.inputs()
        root, env, project, folder = given.root, given.env, given.project, given.folder
        deploying = bool(self._task.args.get("deploy", False))
        writes = not self._task.args.get("only_check", False) and not self._task.check_mode
        stack, settings, made = stack_of(given, writes=writes)
        images = images_of(settings)
        if deploying and not writes:
            inputs.judge_others(root, env, self.variables, self.value)
        if deploying:
            mistakes = inventory_checks.problems(project, settings, stack, env, images)
            _refuse_mistakes(mistakes, env)
        in_use = {service["image"] for service in stack.context["services"].values()}
        # Whose client backs an external database up.
        in_use |= {str((stack.description.get("external") or {}).get("image", ""))}
        result: dict[str, Any] = {
            "missing": list(stack.missing), "folder": str(folder), "stack": stack.description,
            "images": {name: ref for name, ref in images.items() if ref in in_use},
        }  # fmt: skip
        files = bundle.render(stack, root)
        if self._task.args.get("only_check", False):
            # What a host compares with what it has; empty where that is not what lies here.
            lies_here = deploying and not bundle.differences(files, folder)
            wanted = release_archive.configuration(planning.files_of(given, files)) if lies_here else ""
            return {**result, "configuration": wanted}
        changed = bundle.write(files, folder) if writes else bundle.differences(files, folder)
        result.update(changed=bool(changed or made), files=changed, secrets_made=made)
        if stack.missing:
            result["warnings"] = [_missing_warning(stack, env)]
        return result


def _refuse_mistakes(mistakes: list[str], env: str) -> None:
    if mistakes:
        raise KitError(
            "inventory",
            "Nothing was changed; this must be mended first:\n" + "\n".join(f"  - {line}" for line in mistakes),
            f"Mend the lines above, then: make deploy ENV={env}",
        )


def _missing_warning(stack: Stack, env: str) -> str:
    names = ", ".join(stack.missing)
    return f"No value for {names}: rendered as __MISSING__<NAME>. A deploy to {env} will say where each belongs."
