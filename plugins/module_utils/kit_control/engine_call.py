"""Call a verb of the engine on the host, show its progress as it happens, and read its answer."""

from __future__ import annotations

import json
import shlex
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from kit_control import engine_archive

# Often enough to look live, seldom enough to cost nothing.
LOOK_SECONDS = 0.2
# A step that takes longer is shown before it has ended.
PATIENCE_SECONDS = 3.0


def call(action: ActionBase, root: Path, python: str, verb: str, words: list[str]) -> dict[str, Any]:
    """Run one verb.

    Args:
        action: the action plugin that calls; its task's connection and privileges are used.
        root: the deploy root; the engine is brought to its bin/ first.
        python: the host's Python.
        verb: of the engine.
        words: its further arguments.

    Returns:
        The task's result; a failure carries the engine's own message.
    """
    with tempfile.TemporaryDirectory(prefix="kit-engine-") as scratch:
        # Check mode leaves nothing behind, the engine itself included.
        place = Path(scratch) if action._task.check_mode else root
        target = place / "bin/engine.pyz"
        brought = engine_archive.write(target) and not action._task.check_mode
        return _call(action, [python, str(target), "--root", str(root), verb, "--json", *words], brought)


def _call(action: ActionBase, words: list[str], brought: bool) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("r", prefix="kit-progress-", encoding="utf-8") as progress:
        command = [f"KIT_PROGRESS={progress.name}", *words]
        shown = _Shown(progress)
        try:
            done = action._low_level_execute_command(shlex.join(["env", *command]))
        finally:
            shown.close()
    result = answer(str(done["stdout"]), str(done["stderr"]), int(done["rc"]))
    result["changed"] = bool(result.get("changed")) or brought
    return result


def answer(out: str, err: str, code: int) -> dict[str, Any]:
    """Read what the engine printed.

    Args:
        out: standard output; one JSON object.
        err: standard error; the reason where the engine could not even start.
        code: exit code.

    Returns:
        The task's result; a failure carries the engine's own message.
    """
    try:
        told = json.loads(out.strip().splitlines()[-1])
    except (IndexError, ValueError):
        told = None
    if not isinstance(told, dict):
        return {
            "failed": True,
            "msg": f"The engine ended with {code} and gave no answer:\n{err.strip() or out.strip()}",
        }
    if not told.pop("ok"):
        step = f" (step {told['step']})" if told.get("step") else ""
        return {**told, "failed": True, "msg": f"{told['problem']}\nNext: {told['next']}{step}"}
    return told


class _Shown:
    """Shows what is appended to a file, until it is closed."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._begun = ""
        self._since = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self._show()
        self._show()

    def _show(self) -> None:
        new = self._file.read()
        if new:
            *whole, self._begun = (self._begun + new).split("\n")
            self._since = time.monotonic()
            for line in whole:
                Display().display(f"    {line.rstrip()}")
        elif self._begun and self._since and time.monotonic() - self._since > PATIENCE_SECONDS:
            Display().display(f"    {self._begun.rstrip()} (running)")
            self._since = 0.0
