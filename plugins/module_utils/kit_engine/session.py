"""The lock of a deploy from a control node: held from its first step to its last, no longer than the node is there.

The node sends a byte every other second. Steps get the lock's descriptor over a socket, so that it is not free before
the last of them has ended, whatever becomes of this process.
"""

from __future__ import annotations

import argparse
import hmac
import json
import os
import secrets
import select
import selectors
import signal
import socket
import struct
import sys
import syslog
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Optional

from kit_engine import lock, signals

# The node is lost when nothing came for so long.
SILENCE_SECONDS = 15.0
LOOK_SECONDS = 0.5
# How often the log is told what is waited for.
LOG_SECONDS = 60.0
# Ends a session that has done its work; no password that sudo left unread holds this byte.
END = b"\0"
_RECOVERY = "kit_engine.recovery"
# pid, uid, gid
_CREDENTIALS = struct.Struct("3i")


class _Lost(Exception):  # noqa: N818 - it is an event
    """The control node went while the lock was waited for."""


def session_verb(arguments: argparse.Namespace) -> None:
    """Hold the lock for the steps of one deploy.

    The request: ``who``, ``command``, ``wait``. Standard output: lines of JSON, ``waiting`` and ``ok`` with ``token``.
    """
    asked = json.loads(arguments.request)
    root: Path = arguments.root.resolve()
    place = lock.place_of(root)
    # Loaded now: the archive that this runs from may have been replaced by the time it is needed.
    recover = _recovery()
    node = _Node(sys.stdin.fileno())
    new = lock.owner(str(asked["command"]), str(asked["who"]))
    try:
        descriptor = lock.take(place, new, float(asked["wait"]), lambda text: _tell({"waiting": text}), node.pause)
    except _Lost:
        raise SystemExit(1) from None
    with signals.deferred(), lock.holding(place, descriptor):
        steps = _Steps(place, descriptor, secrets.token_hex(16))
        _tell({"ok": True, "token": steps.token})
        if not steps.serve(node):
            steps.end()
            after_loss(root, recover)


def after_loss(root: Path, recover: Optional[Callable[[Path], object]] = None) -> None:
    """Bring the host back to where it serves one release, after the last step of a lost deploy has ended.

    Args:
        root: the deploy root.
        recover: does it; default: the engine's own recovery, where it has one.
    """
    recover = recover or _recovery()
    if recover is None:
        return
    try:
        recover(root)
    except Exception as error:
        # Nobody is there to be told; the next deploy meets the cause again.
        _log(f"recovery of {root} failed: {type(error).__name__}: {error}")


class _Node:
    """The control node, as far as it is heard of."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.ended = False
        self._gone = False
        self._heard = time.monotonic()

    @property
    def lost(self) -> bool:
        """Whether it is there no more."""
        return self._gone or time.monotonic() - self._heard > SILENCE_SECONDS

    def hear(self) -> None:
        """Take what it sent."""
        said = os.read(self.descriptor, 4096)
        self._gone = not said
        self.ended = END in said
        self._heard = time.monotonic()

    def pause(self, seconds: float) -> None:
        """Wait, and listen meanwhile."""
        if select.select([self.descriptor], [], [], seconds)[0]:
            self.hear()
            # A byte that is there ends the wait at once; the next one is two seconds off.
            time.sleep(seconds)
        if self.ended or self.lost:
            raise _Lost


class _Steps:
    """The socket on which steps get the lock, and those that have it."""

    def __init__(self, place: Path, descriptor: int, token: str) -> None:
        self.token = token
        self._place, self._descriptor = place, descriptor
        self._running: dict[socket.socket, int] = {}
        path = lock.socket_of(place)
        # Of a session that was killed: whoever has the lock is the only one that listens.
        path.unlink(missing_ok=True)
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            self._listening.bind(str(path))
        finally:
            os.umask(mask)
        self._listening.listen()
        # select(2), since epoll takes no regular file as standard input.
        self._selector = selectors.SelectSelector()
        self._selector.register(self._listening, selectors.EVENT_READ)

    def serve(self, node: _Node) -> bool:
        """Give steps the lock until the node ends the session or is lost.

        Args:
            node: the control node.

        Returns:
            Whether it was ended.
        """
        self._selector.register(node.descriptor, selectors.EVENT_READ)
        try:
            while not (node.ended or node.lost or signals.pending()):
                for key, _ in self._selector.select(LOOK_SECONDS):
                    if key.fd == node.descriptor:
                        node.hear()
                    elif key.fileobj is self._listening:
                        accepted, _ = self._listening.accept()
                        self._selector.register(accepted, selectors.EVENT_READ)
                    elif isinstance(key.fileobj, socket.socket):
                        self._hear(key.fileobj)
            return node.ended
        finally:
            self._selector.unregister(node.descriptor)
            self._selector.unregister(self._listening)
            self._listening.close()
            lock.socket_of(self._place).unlink(missing_ok=True)

    def end(self) -> None:
        """Ask all running steps to end, and wait until they have: each knows what it must finish first."""
        for pid in self._running.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        told = 0.0
        while self._running:
            if time.monotonic() - told > LOG_SECONDS:
                told = time.monotonic()
                pids = ", ".join(str(pid) for pid in self._running.values())
                _log(f"control node lost; waiting for running steps to end: {pids}")
            for key, _ in self._selector.select(LOOK_SECONDS):
                if isinstance(key.fileobj, socket.socket):
                    self._hear(key.fileobj, closed=True)

    def _hear(self, step: socket.socket, *, closed: bool = False) -> None:
        """A connection either brings the token, or has ended with its step."""
        try:
            said = step.recv(128)
            if not closed and step not in self._running and hmac.compare_digest(said, self.token.encode("ascii")):
                pid, _, _ = _CREDENTIALS.unpack(
                    step.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
                )
                socket.send_fds(step, [lock.GRANTED], [self._descriptor])
                self._running[step] = pid
                return
            if said and step in self._running:
                return
            if said:
                step.sendall(lock.DENIED)
        except OSError:
            # It was killed.
            pass
        self._selector.unregister(step)
        self._running.pop(step, None)
        step.close()


def _recovery() -> Optional[Callable[[Path], object]]:
    """The engine's recovery, where it has one."""
    if find_spec(_RECOVERY) is None:
        return None
    recover: Callable[[Path], object] = import_module(_RECOVERY).recover
    return recover


def _tell(told: dict[str, object]) -> None:
    print(json.dumps(told), flush=True)


def _log(text: str) -> None:
    syslog.openlog("kit-engine", syslog.LOG_PID)
    syslog.syslog(syslog.LOG_WARNING, text)
