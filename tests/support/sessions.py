"""Real processes that hold a host's lock, keep a session or are steps of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from kit_engine import lock
from kit_engine.errors import EngineError

from support.engine_stack import PACKAGES

# Of a loaded machine; what is promised in seconds is asserted where it is promised.
PATIENCE = 20.0
HOLD = """
import sys, time
from pathlib import Path
from kit_engine import command, lock
root, who, seconds = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with lock.held(root, "make deploy ENV=prod", who):
    print("held", flush=True)
    command.run(["sleep", seconds], limit=60)
"""
STEP = """
import sys, time
from pathlib import Path
from kit_engine import lock, signals
root, token, deferred = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
with signals.taken(), lock.held(root, "a step", "ada@laptop", session=token):
    try:
        if deferred:
            with signals.deferred():
                print("held", flush=True)
                until = time.monotonic() + deferred
                while time.monotonic() < until:
                    time.sleep(0.05)
                print("switched", flush=True)
        else:
            print("held", flush=True)
            time.sleep(60)
    except signals.Interrupted:
        print("interrupted", flush=True)
"""
# An engine with one verb more: it notes what becomes of it in a file, whatever becomes of its output.
TEST_VERB = """
import json, os, sys, time, types
from pathlib import Path
from kit_engine import cli, signals
from kit_engine.errors import EngineError

def verb(arguments):
    asked, report = json.loads(arguments.request), arguments.report
    note = Path(asked["note"])
    try:
        if asked.get("fails"):
            raise EngineError("broken", "It is broken.", "mend it")
        if asked.get("dies"):
            os.kill(os.getpid(), 9)
        content = sys.stdin.buffer.read()
        report.say("begun")
        note.write_text(f"begun {os.getpid()}")
        if asked.get("deferred"):
            with signals.deferred():
                time.sleep(asked["deferred"])
                report.say("switched")
                note.write_text("switched")
        time.sleep(asked.get("seconds", 0))
        report.say("half\\u2026")
        report.done({"size": len(content), "pid": os.getpid()}, "")
        note.write_text("done")
    except signals.Interrupted:
        if not asked.get("deferred"):
            note.write_text("interrupted")
        raise

module = types.ModuleType("kit_engine.test_verb")
module.run = verb
sys.modules["kit_engine.test_verb"] = module
cli._BY_REQUEST["test"] = "test_verb.run"
cli._CHANGES = {**cli._CHANGES, "test": lambda given: bool(given.session)}
"""
SESSION = f"{TEST_VERB}\nsys.exit(cli.main(sys.argv[1:]))\n"


class Programs:
    """Programs that are ended with the test."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start Python with the engine's packages."""
        program = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(PACKAGES)},
            start_new_session=True,
        )
        self.started.append(program)
        return program

    def end(self) -> None:
        """End all."""
        for program in self.started:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()
            for stream in (program.stdin, program.stdout):
                with suppress(BrokenPipeError):
                    cast("IO[str]", stream).close()

    def holder(self, root: Path, who: str = "ada@laptop", seconds: str = "60") -> subprocess.Popen[str]:
        """Start one that holds the lock, and has it."""
        program = self.start("-c", HOLD, str(root), who, seconds)
        assert line(program) == "held"
        return program

    def session(self, root: Path, wait: float = 0) -> subprocess.Popen[str]:
        """Start a session, whether it gets the lock or not."""
        asked = json.dumps({"who": "ada@laptop"})
        program = self.start("-m", "kit_engine", "--root", str(root), "session", "--json", "--request", asked)
        take_lock(program, wait)
        return program

    def step(self, root: Path, token: str, deferred: float = 0) -> subprocess.Popen[str]:
        """Start a step of a session, that has the lock."""
        program = self.start("-c", STEP, str(root), token, str(deferred))
        assert line(program) == "held"
        return program


def line(program: subprocess.Popen[str]) -> str:
    return cast("IO[str]", program.stdout).readline().strip()


def told(program: subprocess.Popen[str]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(line(program))
    return answer


def order(program: subprocess.Popen[str], **asked: Any) -> None:
    """Ask a session for something, as a control node does."""
    orders = cast("IO[str]", program.stdin)
    orders.write(f"\1{json.dumps(asked)}\n")
    orders.flush()


def take_lock(program: subprocess.Popen[str], wait: float = 0) -> None:
    """Have a session take the lock, or try."""
    assert told(program) == {"ready": True}
    order(program, lock=True, command="make deploy ENV=prod", wait=wait)


def leave(program: subprocess.Popen[str]) -> None:
    """Go as a control node goes that is lost."""
    cast("IO[str]", program.stdin).close()


def until(happened: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.02)


def is_free(root: Path) -> bool:
    try:
        with lock.held(root, "./docker-manage.sh prod up", "bob@desk"):
            return True
    except EngineError as error:
        return error.code != "locked"
