"""A deploy from a control node: its steps, and the lock that they share, no longer than the node is there.

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
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Optional

from kit_engine import lock, signals
from kit_engine.session_calls import Calls

# The node is lost when nothing came for so long.
SILENCE_SECONDS = 15.0
LOOK_SECONDS = 0.5
# Often enough for what a running verb tells to look live; and how often the node hears of one that tells nothing.
PROGRESS_SECONDS, QUIET_SECONDS = 0.1, 1.0
# How often the log is told what is waited for.
LOG_SECONDS = 60.0
# What ends a session that has done its work, and what begins an order; no password that sudo left unread holds these.
END, ORDER = b"\0", b"\x01"
# pid, uid, gid
_CREDENTIALS = struct.Struct("3i")


class _Lost(Exception):  # noqa: N818 - it is an event
    """The control node went while the lock was waited for."""


def session_verb(arguments: argparse.Namespace) -> None:
    """Run the steps of one deploy, and hold the lock for those that change the host.

    The request: ``who``. Standard input: heartbeats, and orders between them; each is ORDER, a line of JSON and as many
    bytes as its ``size`` says; its ``id`` stands in all answers to it. ``lock`` takes the lock, with ``command`` and
    ``wait``; ``call`` holds the words of a verb, whose standard input the bytes are. Standard output: lines of JSON;
    ``ready`` once, ``waiting`` and ``ok`` with ``token`` for the lock, ``progress`` and then ``ended``, ``out`` and
    ``err`` for a verb.
    """
    who = str(json.loads(arguments.request)["who"])
    root: Path = arguments.root.resolve()
    place = lock.place_of(root)
    # Loaded now: the archive that this runs from may have been replaced by the time it is needed.
    recover, leave = _inside("recovery", "recover"), _inside("backup_ahead", "leave")
    node = _Node(sys.stdin.fileno())
    serving = _Serving(node)
    node.tell({"ready": True})
    asked = serving.until_asked_for_the_lock()
    if asked is None:
        if node.ended:
            return
        raise SystemExit(1)
    new = lock.owner(str(asked["command"]), who)
    try:
        descriptor = lock.take(
            place, new, float(asked["wait"]), lambda text: node.answer(asked, {"waiting": text}), node.pause
        )
    except _Lost:
        raise SystemExit(1) from None
    with signals.deferred(), lock.holding(place, descriptor):
        steps = _Steps(place, descriptor, secrets.token_hex(16), serving.selector)
        node.answer(asked, {"ok": True, "token": steps.token})
        ended = serving.until_ended(steps)
        # Of one that went to its end, there may be what nobody waits for.
        steps.end()
        _after(root, leave)
        if not ended:
            _after(root, recover)


def _after(root: Path, work: Optional[Callable[[Path], object]]) -> None:
    """Do what is left to do on the host after the last step: of a deploy that was lost, to bring it to serve."""
    if work is None:
        return
    try:
        work(root)
    except Exception as error:
        # Nobody is there to be told; the next deploy meets the cause again.
        _log(f"{work.__name__} of {root} failed: {type(error).__name__}: {error}")


class _Node:
    """The control node, as far as it is heard of."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.ended = False
        # What it asked for, each with its content.
        self.orders: deque[tuple[dict[str, Any], bytes]] = deque()
        self._gone = False
        self._heard = time.monotonic()
        self._begun = bytearray()

    @property
    def lost(self) -> bool:
        """Whether it is there no more."""
        return self._gone or time.monotonic() - self._heard > SILENCE_SECONDS

    def hear(self) -> None:
        """Take what it sent."""
        said = os.read(self.descriptor, 1 << 20)
        self._gone = not said
        self._heard = time.monotonic()
        self._begun += said
        while not self.ended and self._take():
            pass

    def leave(self) -> None:
        """Have it taken for lost."""
        self._gone = True

    def tell(self, told: dict[str, object]) -> None:
        """Tell it something; one that hears nothing any more is lost."""
        try:
            print(json.dumps(told), flush=True)
        except OSError:
            self._gone = True

    def answer(self, asked: Mapping[str, Any], told: dict[str, object]) -> None:
        """Tell it something of what it asked for."""
        self.tell({**told, **({"id": asked["id"]} if "id" in asked else {})})

    def _take(self) -> bool:
        """Take an order or the end off what has come, where one is there as a whole."""
        # Before it lie heartbeats, and a password that sudo did not want.
        begin = next((place for place, byte in enumerate(self._begun) if byte in END + ORDER), len(self._begun))
        del self._begun[:begin]
        if not self._begun:
            return False
        if self._begun.startswith(END):
            self.ended = True
            return False
        line = self._begun.find(b"\n")
        if line < 0:
            return False
        asked = json.loads(self._begun[1:line])
        whole = line + 1 + int(asked.get("size", 0))
        if len(self._begun) < whole:
            return False
        self.orders.append((asked, bytes(self._begun[line + 1 : whole])))
        del self._begun[:whole]
        return True

    def pause(self, seconds: float) -> None:
        """Wait, and listen meanwhile."""
        if select.select([self.descriptor], [], [], seconds)[0]:
            self.hear()
            # A byte that is there ends the wait at once; the next one is two seconds off.
            time.sleep(seconds)
        if self.ended or self.lost:
            raise _Lost


class _Serving:
    """Runs the verbs that a node asks for, and gives steps the lock once it is held."""

    def __init__(self, node: _Node) -> None:
        self._node = node
        self._calls = Calls()
        self._asked: Mapping[str, Any] = {}
        self._told = 0.0
        # select(2), since epoll takes no regular file as standard input.
        self.selector = selectors.SelectSelector()
        self.selector.register(node.descriptor, selectors.EVENT_READ)
        self.selector.register(self._calls, selectors.EVENT_READ)

    def until_asked_for_the_lock(self) -> Optional[dict[str, Any]]:
        """Serve; gives the order for the lock, or None where the node ended the session or is lost."""
        while not (self._node.ended or self._node.lost):
            asked = self._serve(None)
            if asked is not None:
                return asked
        return None

    def until_ended(self, steps: _Steps) -> bool:
        """Serve with the lock until the node ends the session or is lost; tells whether it was ended."""
        try:
            while not (self._node.ended or self._node.lost or signals.pending()):
                self._serve(steps)
            return self._node.ended
        finally:
            self.selector.unregister(self._node.descriptor)
            self.selector.unregister(self._calls)
            steps.accept_no_more()

    def _serve(self, steps: Optional[_Steps]) -> Optional[dict[str, Any]]:
        calls, node = self._calls, self._node
        if node.orders and not calls.busy:
            asked, content = node.orders.popleft()
            if "call" not in asked:
                return asked
            self._asked = asked
            calls.begin([str(word) for word in asked["call"]], content)
            self._told = time.monotonic()
        for key, _ in self.selector.select(PROGRESS_SECONDS if calls.busy else LOOK_SECONDS):
            if key.fd == node.descriptor:
                node.hear()
            elif key.fileobj is calls:
                if calls.busy:
                    self._tell_progress()
                node.answer(self._asked, calls.ended())
                if not calls.alive:
                    node.leave()
            elif steps and isinstance(key.fileobj, socket.socket):
                steps.hear(key.fileobj)
        if calls.busy:
            self._tell_progress()
        return None

    def _tell_progress(self) -> None:
        told = self._calls.progress()
        if told or time.monotonic() - self._told >= QUIET_SECONDS:
            self._told = time.monotonic()
            self._node.answer(self._asked, {"progress": told})


class _Steps:
    """The socket on which steps get the lock, and those that have it."""

    def __init__(self, place: Path, descriptor: int, token: str, selector: selectors.BaseSelector) -> None:
        self.token = token
        self._place, self._descriptor, self._selector = place, descriptor, selector
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
        self._selector.register(self._listening, selectors.EVENT_READ)

    def hear(self, ready: socket.socket) -> None:
        """Take a new connection, or what one has to say."""
        if ready is self._listening:
            accepted, _ = self._listening.accept()
            self._selector.register(accepted, selectors.EVENT_READ)
        else:
            self._hear(ready)

    def accept_no_more(self) -> None:
        """Give the lock to no further step."""
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


def _inside(module: str, name: str) -> Optional[Callable[[Path], object]]:
    """A function of a module of the engine, where it has that module."""
    if find_spec(f"kit_engine.{module}") is None:
        return None
    found: Callable[[Path], object] = getattr(import_module(f"kit_engine.{module}"), name)
    return found


def _log(text: str) -> None:
    syslog.openlog("kit-engine", syslog.LOG_PID)
    syslog.syslog(syslog.LOG_WARNING, text)
