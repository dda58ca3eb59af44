"""Change one thing of a host with a shell script of the role, as root; a dangerous change holds only if a login works.

A dangerous one is tried first and undoes itself after a while, whatever becomes of this run. A new login, which must
not be an old connection used again, has it kept; without one it is undone at once.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from kit_control import engine_call, unreachable_host
from kit_control.action import KitAction
from kit_control.errors import KitError

# An sshd that reads its settings anew listens to nobody for a moment, a longer one on a busy host.
SETTLING_SECONDS = 6


class ActionModule(KitAction):
    """Arguments.

    ``script`` (a file, or several that make one), ``words``, ``input``: what runs. ``login``: user who must be able to
    log in anew afterwards; ``root``: and to become root there. ``undo_seconds``: the change is dangerous, and the
    script's first word is one of ``try``, ``keep`` (with ``keep_input``) and ``undo``.
    """

    _VALID_ARGS = frozenset({"script", "words", "input", "login", "root", "undo_seconds", "keep_input"})

    def work(self) -> dict[str, Any]:
        """Change; see the module's docstring."""
        given = self._task.args
        if self._task.check_mode:
            return {"changed": True}
        words, text = [str(word) for word in given.get("words") or []], str(given.get("input") or "")
        if not given.get("undo_seconds"):
            self._run(words, text)
            if given.get("login"):
                self._log_in(str(given["login"]))
            return {"changed": True}
        seconds = str(given["undo_seconds"])
        self._run(["try", seconds], text)
        try:
            self._log_in(str(given.get("login") or ""))
        except KitError as error:
            raise KitError("login", f"{error.problem}\n{self._undone(seconds)}", error.remedy) from error
        self._run(["keep"], str(given.get("keep_input") or ""))
        return {"changed": True}

    def _run(self, words: list[str], text: str) -> None:
        given = self._task.args["script"]
        files = [Path(path) for path in ([given] if isinstance(given, str) else given)]
        script = "".join(path.read_text(encoding="utf-8") for path in files)
        done = engine_call.run(self, script, words, text.encode())
        engine_call.demand_root(self, done)
        if done["rc"]:
            said = (str(done["stderr"]).strip() or str(done["stdout"]).strip())[-1500:]
            raise KitError(
                "host",
                f"On {self.host}, {files[0].name} {' '.join(words)} ended with {done['rc']}:\n    "
                + said.replace("\n", "\n    "),
                "mend what it complains of, then: make provision again",
            )

    def _undone(self, seconds: str) -> str:
        try:
            self._run(["undo"], "")
        except KitError:
            return f"The change undoes itself within {seconds} s."
        return "The change was undone."

    def _log_in(self, user: str) -> None:
        """Open a connection of its own, as `user` or as the one of the run."""
        if not self.is_remote:
            return
        before = {name: self._connection.get_option(name) for name in ("ssh_extra_args", "remote_user")}
        self._connection.set_option("ssh_extra_args", f"{before['ssh_extra_args'] or ''} -o ControlPath=none")
        if user:
            self._connection.set_option("remote_user", user)
        end = time.monotonic() + SETTLING_SECONDS
        try:
            while (error := self._refused()) and unreachable_host.SILENT in error.problem and time.monotonic() < end:
                time.sleep(1)
            if error:
                problem = f"A new login failed after this change.\n{error.problem}"
                raise KitError("login", problem, error.remedy) from error
        finally:
            for name, value in before.items():
                self._connection.set_option(name, value)

    def _refused(self) -> KitError | None:
        """Try the connection; the error where it fails."""
        try:
            done = engine_call.run(self, "id -u", [], as_root=bool(self._task.args.get("root", True)))
            engine_call.demand_root(self, done)
        except KitError as error:
            return error
        return None
