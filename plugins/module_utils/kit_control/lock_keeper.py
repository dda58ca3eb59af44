"""Keeps one host's session for a deploy, in a process of its own that host_lock starts.

Tasks are forks that end; this stays beside ansible-playbook, hands on what they ask of the host, and keeps the session
there going. When ansible-playbook is gone, whatever ended it, so is the session: only a deploy that went to its end
says so before.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from kit_engine import session as engine_session
from kit_engine import signals

from kit_control import engine_archive

HEARTBEAT_SECONDS = 2.0
# Without a descriptor that tells of a process's end, looks at it.
LOOK_SECONDS = 0.5
# A host that is told to end its session has done so within moments; where the node is lost, a step may take longer.
PATIENCE_SECONDS = 10.0
# What starts the archive where a host lacks the engine.
START = b"\0"
SEND_ENGINE = "engine"
KEEP = "keep"


def main() -> int:
    """Keep one session: a line of JSON on standard input says how, lines of JSON on standard output how it goes."""
    given = json.loads(sys.stdin.buffer.readline())
    with tempfile.TemporaryFile() as errors:
        session = subprocess.Popen(  # noqa: S603 - the command that Ansible's own connection uses
            given["command"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0
        )
        keeper = Keeper(session, errors, int(given["run"]))
        try:
            if given["password"]:
                keeper.send(f"{given['password']}\n".encode())
            if keeper.opened():
                keeper.keep()
            elif session.poll() is not None:
                _tell({"ended": session.returncode, "said": keeper.said()})
        except BrokenPipeError:
            # The task that asked is gone.
            pass
        finally:
            keeper.close()
    return 0


class Keeper:
    """One session, and the run that it is kept for.

    Args:
        session: its process.
        errors: what that wrote to standard error.
        run: process id of ansible-playbook.
    """

    def __init__(self, session: subprocess.Popen[bytes], errors: IO[bytes], run: int) -> None:
        self._session, self._errors, self._run = session, errors, run
        self._out = cast("IO[bytes]", session.stdout)
        self._beaten = time.monotonic()
        self._folder: Path | None = None
        # Whether the session runs from an engine that was sent for it alone.
        self._brought = False
        # The task that waits for what the session tells.
        self._asking: socket.socket | None = None
        self._watch: int | None = None
        try:
            self._watch = os.pidfd_open(run)
        except (AttributeError, OSError):
            # Not on this system, or it is gone already.
            self._watch = None

    def opened(self) -> bool:
        """Go on until the session is there and a task has taken it up; False where either is not to be had."""
        rest = b""
        while True:
            ready = self._look([self._out, sys.stdin])
            if ready is None:
                return False
            if sys.stdin in ready:
                return KEEP in sys.stdin.readline()
            if self._out not in ready:
                continue
            part = os.read(self._out.fileno(), 65536)
            if not part:
                self._session.wait(PATIENCE_SECONDS)
                return False
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                self._heard(line.decode(errors="replace").strip())

    def keep(self) -> None:
        """Hand on orders and answers until the deploy ends, one way or the other."""
        # The task waits for nothing more.
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1):
            os.dup2(null, number)
        while True:
            ready = self._look([self._out, self._listening])
            if ready is None:
                return
            if self._out in ready:
                told = os.read(self._out.fileno(), 1 << 20)
                if not told:
                    self._session.wait(PATIENCE_SECONDS)
                    self._answer(json.dumps({"lost": self.said()}).encode() + b"\n")
                    return
                self._answer(told)
            if self._listening in ready and self._take_order():
                return

    def said(self) -> str:
        """Give what the session's connection complained of."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def _take_order(self) -> bool:
        """Take a task's order; tells whether it was the last."""
        connection, _ = self._listening.accept()
        connection.settimeout(PATIENCE_SECONDS)
        try:
            with cast("IO[bytes]", connection.makefile("rb")) as given:
                line = given.readline()
                order = json.loads(line)
                content = given.read(int(order["size"]))
            whole = len(content) == int(order["size"])
        except (OSError, ValueError, KeyError):
            whole = False
        if not whole:
            # The task has ended in the middle of it; a part would have the session take heartbeats for the rest.
            connection.close()
            return False
        if self._asking:
            self._asking.close()
        self._asking = connection
        if "free" in order:
            self.send(engine_session.END)
            self.close()
            self._answer(b'{"freed": true}\n')
            return True
        self.send(engine_session.ORDER + line + content)
        return False

    def _answer(self, told: bytes) -> None:
        """Give a task what the session tells; one that has ended misses it."""
        if self._asking:
            with suppress(OSError):
                self._asking.sendall(told)

    def send(self, content: bytes) -> None:
        """Write to the session; one that is gone is noticed by what it says no more."""
        stream = cast("IO[bytes]", self._session.stdin)
        with suppress(BrokenPipeError):
            view = memoryview(content)
            while view:
                view = view[stream.write(view) :]

    def close(self) -> None:
        """Let the session end: without the word for it, the host takes this run for lost."""
        with suppress(BrokenPipeError):
            cast("IO[bytes]", self._session.stdin).close()
        try:
            self._session.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._session.kill()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _look(self, wanted: list[Any]) -> list[Any] | None:
        """Wait for something to read, with a heartbeat in between; None when the run has ended."""
        watched = [*wanted, *([self._watch] if self._watch is not None else [])]
        ready, _, _ = select.select(watched, [], [], HEARTBEAT_SECONDS if self._watch is not None else LOOK_SECONDS)
        if self._watch in ready or (self._watch is None and not signals.runs(self._run)):
            return None
        if time.monotonic() - self._beaten >= HEARTBEAT_SECONDS:
            self._beaten = time.monotonic()
            self.send(b".")
        return ready

    def _heard(self, line: str) -> None:
        """Take one line of the host's, and tell the task what it means."""
        if line == SEND_ENGINE:
            self._brought = True
            self.send(START + engine_archive.build())
            return
        try:
            told = json.loads(line)
        except ValueError:
            # Sudo's, or a greeting of the host's.
            return
        if not isinstance(told, dict):
            return
        if "ready" in told:
            self._folder = Path(tempfile.mkdtemp(prefix="kit-lock-"))
            path = self._folder / "keeper"
            self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listening.bind(str(path))
            self._listening.listen()
            told.update(keeper=str(path), brought=self._brought)
        _tell(told)


def _tell(told: dict[str, Any]) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    sys.exit(main())
