"""Holds one host's lock for a deploy, in a process of its own that host_lock starts.

Tasks are forks that end; this stays beside ansible-playbook and keeps the engine's session on the host going. When
ansible-playbook is gone, whatever ended it, so is the session: only a deploy that went to its end says so before.
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

from kit_engine import signals

from kit_control import engine_archive

HEARTBEAT_SECONDS = 2.0
# Without a descriptor that tells of a process's end, looks at it.
LOOK_SECONDS = 0.5
# A host that is told to end its session has done so within moments; where the node is lost, a step may take longer.
PATIENCE_SECONDS = 10.0
# The session's own word for the end (kit_engine.session), and what starts the archive where a host lacks the engine.
END = START = b"\0"
SEND_ENGINE = "engine"
FREE, KEEP, FREED = b"free", "keep", b"freed"


def main() -> int:
    """Keep one session: a line of JSON on standard input says how, lines of JSON on standard output how it goes."""
    given = json.loads(sys.stdin.buffer.readline())
    with tempfile.TemporaryFile() as errors:
        session = subprocess.Popen(  # noqa: S603 - the command that Ansible's own connection uses
            given["command"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0
        )
        keeper = Keeper(session, int(given["run"]))
        try:
            if given["password"]:
                keeper.send(f"{given['password']}\n".encode())
            if keeper.taken():
                keeper.keep()
            elif session.poll() is not None:
                errors.seek(0)
                said = errors.read().decode(errors="replace")
                _tell({"ended": session.returncode, "said": said})
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
        run: process id of ansible-playbook.
    """

    def __init__(self, session: subprocess.Popen[bytes], run: int) -> None:
        self._session, self._run = session, run
        self._out = cast("IO[bytes]", session.stdout)
        self._beaten = time.monotonic()
        self._folder: Path | None = None
        self._watch: int | None = None
        try:
            self._watch = os.pidfd_open(run)
        except (AttributeError, OSError):
            # Not on this system, or it is gone already.
            self._watch = None

    def taken(self) -> bool:
        """Go on until the host's lock is had, and tell the task; False where it is not to be had."""
        rest = b""
        while True:
            ready = self._look([self._out, sys.stdin])
            if ready is None or (sys.stdin in ready and KEEP not in sys.stdin.readline()):
                return False
            if self._out not in ready:
                continue
            part = os.read(self._out.fileno(), 65536)
            if not part:
                self._session.wait(PATIENCE_SECONDS)
                return False
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                if self._heard(line.decode(errors="replace").strip()):
                    return True

    def keep(self) -> None:
        """Hold the lock until the deploy ends, one way or the other."""
        listening = self._listening
        # The task waits for nothing more.
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1):
            os.dup2(null, number)
        while True:
            ready = self._look([self._out, listening])
            if ready is None:
                return
            if self._out in ready and not os.read(self._out.fileno(), 65536):
                return
            if listening in ready:
                connection, _ = listening.accept()
                with connection, suppress(OSError):
                    connection.settimeout(PATIENCE_SECONDS)
                    if connection.recv(len(FREE)) == FREE:
                        self.send(END)
                        self.close()
                        connection.sendall(FREED)
                        return

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

    def _heard(self, line: str) -> bool:
        """Take one line of the host's; True when the lock is had."""
        if line == SEND_ENGINE:
            self.send(START + engine_archive.build())
            return False
        try:
            told = json.loads(line)
        except ValueError:
            # Sudo's, or a greeting of the host's.
            return False
        if not isinstance(told, dict):
            return False
        if told.get("ok") is True:
            self._folder = Path(tempfile.mkdtemp(prefix="kit-lock-"))
            path = self._folder / "keeper"
            self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listening.bind(str(path))
            self._listening.listen()
            told["keeper"] = str(path)
        _tell(told)
        # Only now may the task end without ending this.
        return told.get("ok") is True and KEEP in sys.stdin.readline()


def _tell(told: dict[str, Any]) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    sys.exit(main())
