"""One change of a host at a time: a lock of the operating system, held by whoever changes it and by all that it starts.

The kernel frees it when the last process that holds it has ended, so none is ever left behind.
"""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import json
import os
import platform
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

from kit_engine.errors import EngineError

# Root's alone, unlike /run/lock, where any user could lay hands on the name first; gone after a reboot.
FOLDER = Path("/run")
# In a deploy root that is one user's, who need not be root.
IN_PLACE = ".lock"
STACK_FILE = "stack.json"
LOOK_SECONDS = 0.2
JOIN_SECONDS = 10.0
GRANTED, DENIED = b"ok", b"no"
_MINUTE, _HOUR, _DAY = 60, 3600, 86400

# What this process holds, by the lock's file.
_held: dict[Path, int] = {}


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes:
        who: user; ``node`` is the machine that the user sits at.
        command: what was typed.
        since: seconds since 1970, by this host's clock.
        pid: of the process that took it.
    """

    who: str
    node: str
    command: str
    since: float
    pid: int

    def told(self) -> str:
        """Say it to whoever is refused or waits."""
        moment = time.strftime("%H:%M:%S", time.localtime(self.since))
        return _plain(
            f"Another command is at work on this host since {moment} ({_age(time.time() - self.since)}): "
            f"{self.command}, user {self.who} on {self.node}."
        )


@contextmanager
def held(
    root: Path,
    command: str,
    who: str,
    wait: float = 0,
    session: str = "",
    say: Optional[Callable[[str], None]] = None,
) -> Iterator[None]:
    """Hold the lock of a deploy root; inside itself it does nothing more.

    Args:
        root: the deploy root.
        command: what was typed, for those who are refused meanwhile.
        who: user@machine.
        wait: seconds to wait for another holder.
        session: token of a session that holds the lock for its steps, of which this is one.
        say: told once who is waited for.

    Raises:
        EngineError: somebody else holds it (``locked``), or the session is gone (``lock_lost``).
    """
    place = place_of(root)
    if place in _held:
        yield
        return
    joined: Optional[socket.socket] = None
    if session:
        joined, descriptor = _join(place, session)
    else:
        descriptor = take(place, owner(command, who), wait, say)
    try:
        with holding(place, descriptor):
            yield
    finally:
        if joined:
            joined.close()


@contextmanager
def holding(place: Path, descriptor: int) -> Iterator[None]:
    """Have all programs that are started inside inherit a lock that was taken.

    Args:
        place: its file.
        descriptor: of the lock; closed at the end.
    """
    _held[place] = descriptor
    try:
        yield
    finally:
        del _held[place]
        # Not unlocked: what we started may still be at work, and holds it on.
        os.close(descriptor)


def inherited() -> tuple[int, ...]:
    """Descriptors that every program must be given that this process starts."""
    return tuple(_held.values())


def place_of(root: Path) -> Path:
    """Give the lock's file: the stack's own where it runs from where it was rendered, else root's."""
    root = root.resolve()
    if (root / STACK_FILE).is_file() or os.geteuid() != 0:
        return root / IN_PLACE
    return FOLDER / f"kit-{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}.lock"


def socket_of(place: Path) -> Path:
    """Give the socket on which a session hands the lock to its steps."""
    return place.with_suffix(".sock")


def owner(command: str, who: str) -> Owner:
    """Describe this process as an owner.

    Args:
        command: what was typed.
        who: user@machine.
    """
    user, _, node = who.rpartition("@")
    return Owner(user, node, command, time.time(), os.getpid())


def caller() -> str:
    """Tell who called this process: user@machine, whoever sudo made of the user."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        # A user without a name, as containers have them.
        user = str(os.getuid())
    return here(user)


def here(user: str) -> str:
    """Write who a user of this machine is: user@machine, as text that can be written anywhere; a name may be none."""
    return f"{user}@{platform.node()}".encode("utf-8", "backslashreplace").decode()


def take(
    place: Path,
    new: Owner,
    wait: float = 0,
    say: Optional[Callable[[str], None]] = None,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Take a lock.

    Args:
        place: its file.
        new: who takes it.
        wait: seconds to wait for another holder.
        say: told once who is waited for.
        pause: waits between two looks; ends the wait by an exception.

    Returns:
        The descriptor; the lock is free when it, and all that were inherited from it, are closed.

    Raises:
        EngineError: somebody else holds it.
    """
    until = time.monotonic() + wait
    told = False
    while True:
        descriptor = _try(place, new)
        if descriptor is not None:
            return descriptor
        text = _holder(place)
        if time.monotonic() >= until:
            raise EngineError("locked", text, f"wait, or: {_waiting(new.command)}")
        if say and not told:
            say(f"{text} Waiting up to {wait:.0f} s …")
            told = True
        pause(LOOK_SECONDS)


def _try(place: Path, new: Owner) -> Optional[int]:
    """Take a lock if it is free."""
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    taken = False
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        there = place.stat() if place.exists() else None
        mine = os.fstat(descriptor)
        if there is None or there.st_ino != mine.st_ino:
            # Somebody removed the file, such as with the folder it lies in: the next look makes it anew.
            return None
        if place.name == IN_PLACE and os.geteuid() == 0:
            # As root for a user, who comes without sudo next time.
            home = place.parent.stat()
            os.fchown(descriptor, home.st_uid, home.st_gid)
        os.ftruncate(descriptor, 0)
        # Plain ASCII: a name may hold what is no text at all.
        os.pwrite(descriptor, json.dumps(asdict(new)).encode("ascii"), 0)
        taken = True
        return descriptor
    finally:
        if not taken:
            os.close(descriptor)


def _holder(place: Path) -> str:
    try:
        return Owner(**json.loads(place.read_text(encoding="ascii"))).told()
    except (OSError, ValueError, TypeError):
        # Between taking it and writing, a moment ago.
        return "Another command is at work on this host since a moment ago."


def _join(place: Path, token: str) -> tuple[socket.socket, int]:
    """Get the lock from the session that holds it; the connection tells it how long this step runs."""
    session = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        session.settimeout(JOIN_SECONDS)
        session.connect(str(socket_of(place)))
        session.sendall(token.encode("ascii", "replace"))
        answer, descriptors, _, _ = socket.recv_fds(session, len(GRANTED), 1)
        if answer == GRANTED and descriptors:
            os.set_inheritable(descriptors[0], False)
            return session, descriptors[0]
    except OSError:
        pass
    session.close()
    raise EngineError(
        "lock_lost",
        "This host's lock is no longer held for this deploy: its connection was lost, and the lock was freed.",
        "repeat the command",
    )


def _waiting(command: str) -> str:
    """The command that waits instead of being refused."""
    return _plain(f"{command} WAIT=600" if command.startswith("make ") else f"{command} --wait 600")


def _age(seconds: float) -> str:
    seconds = max(0, int(seconds))
    if seconds < 2 * _MINUTE:
        return f"{seconds} s"
    if seconds < 2 * _HOUR:
        return f"{seconds // _MINUTE} min"
    return f"{seconds // _HOUR} h" if seconds < 2 * _DAY else f"{seconds // _DAY} days"


def _plain(text: str) -> str:
    """Keep what a terminal shows as it is; a name may hold anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
