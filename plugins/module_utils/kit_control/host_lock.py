"""Open a session on a host, have the host to ourselves from before the first change to the end, and let it go."""

from __future__ import annotations

import getpass
import json
import os
import select
import shlex
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from kit_engine import lock

from kit_control import engine_call, host_session, lock_keeper, session_ahead
from kit_control.action import KitAction
from kit_control.errors import KitError

_SSH_FAILED = 255
# The engine that stands there, else one for this call alone: before the lock is had, nothing of the host's is changed.
_SESSION = (
    """sum=$1; size=$2; python=$3; engine=$4; shift 4
if printf '%s  %s\\n' "$sum" "$engine" | sha256sum --check --status 2> /dev/null; then exec "$python" "$engine" "$@"; fi
"""
    + engine_call.HAS_PYTHON
    + f"""folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
echo {lock_keeper.SEND_ENGINE}
"""
    # What comes first may be heartbeats, and a password that sudo did not want.
    + """"$python" -c '
import os, sys
while os.read(0, 1) not in (b"\\0", b""):
    pass
left = int(sys.argv[2])
with open(sys.argv[1], "wb") as file:
    while left:
        part = os.read(0, min(left, 65536))
        left -= file.write(part) or sys.exit("cut off")
' "$folder/engine.pyz" "$size" || exit 1
"$python" "$folder/engine.pyz" "$@"
"""
)


def open_session(action: KitAction, root: Path, python: str, *, anew: bool = False) -> dict[str, Any]:
    """Open a session on the task's host, and leave a process that keeps it while ansible-playbook runs.

    Args:
        action: the action plugin that calls; a connection like its own is used.
        root: the deploy root there.
        python: the host's Python.
        anew: whether one that was begun ahead is not what is wanted.

    Returns:
        ``keeper``, ``root`` and ``brought`` (it runs from an engine that came with it, and is not the host's own).

    Raises:
        KitError: the host cannot be reached, may not be administered, or has no fitting Python.
    """
    archive, checksum = engine_call.archive_and_sum()
    words = [checksum, str(len(archive)), python, str(root / "bin/engine.pyz")]
    words += ["--root", str(root), "session", "--json", "--request", json.dumps({"who": who()})]
    argv, password = _command(action, shlex.join(["sh", "-c", _SESSION, "kit", *words]))
    ahead = None if password or anew else session_ahead.begun(argv)
    told = _taken_up(ahead) if ahead else {}
    if not told:
        # A task is a fork of ansible-playbook.
        told = _told(session_ahead.start({"command": argv, "password": password, "run": os.getppid()}))
    if "ready" not in told:
        raise _not_started(action, python, int(told.get("ended", 1)), str(told.get("said", "")))
    if action._connection.transport == "ssh" and not (password or action._connection.get_option("password")):
        session_ahead.keep(action.host, argv)
    became = action._connection.become is not None
    return {"keeper": told["keeper"], "brought": told["brought"], "root": str(root), "became": became}


def _taken_up(keeper: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What the keeper of a session tells that was begun ahead; nothing where one has to be opened anew.

    An end that nobody has waited for may be of minutes ago: what was wrong then need not be now.
    """
    waited = not select.select([cast("IO[bytes]", keeper.stdout)], [], [], 0)[0]
    told = _told(keeper)
    return told if waited or "ready" in told else {}


def _told(keeper: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What a session's keeper tells: ``ready``, and it is kept from then on, or ``ended``.

    Nothing of one that has been taken up since by another task, or whose session ended after it was ready.
    """
    with cast("IO[bytes]", keeper.stdin) as to_keeper, cast("IO[bytes]", keeper.stdout) as lines:
        for line in lines:
            told: dict[str, Any] = json.loads(line)
            if "ready" in told:
                try:
                    # Past the buffer, which would be written once more when it is closed.
                    os.write(to_keeper.fileno(), f"{lock_keeper.KEEP}\n".encode())
                except BrokenPipeError:
                    return {}
            if "ready" in told or "ended" in told:
                return told
    return {}


@dataclass(frozen=True)
class Order:
    """How a lock is taken.

    Attributes:
        command: what was typed, for those who are refused meanwhile.
        wait: seconds to wait for another holder.
        ahead: whether a backup will be made under it: what takes long of that is started as soon as it is held.
    """

    command: str
    wait: float
    ahead: bool


def ordered(told: Mapping[str, Any]) -> Order:
    """Read an order as roles write it.

    Raises:
        KitError: the seconds are no number.
    """
    try:
        wait = float(told["wait"])
    except (TypeError, ValueError):
        raise KitError(
            "inventory",
            f"{told['wait']!r} is no number of seconds to wait for another command. Nothing was changed.",
            "WAIT=600    (lock_wait_seconds)",
        ) from None
    return Order(str(told["command"]), wait, bool(told["ahead"]))


def take(action: KitAction, root: Path, python: str, order: Order) -> dict[str, Any]:
    """Take the lock of the task's host.

    Args:
        action: the action plugin that calls.
        root: the deploy root there.
        python: the host's Python.
        order: how.

    Returns:
        The task's result: a session, as of :func:`open_session`, with ``token`` for the steps, and whether
        another holder was ``waited`` for; a failure names the holder.

    Raises:
        KitError: the host cannot be reached, may not be administered, or has no fitting Python.
    """
    told = _taken(action, root, python, {"lock": True, "command": order.command, "wait": order.wait})
    if order.ahead and told.get("token") and not told["brought"]:
        words = ["--root", str(root), "ahead", "--json", "--request", "{}", "--session", str(told["token"])]
        host_session.leave_with(str(told["keeper"]), words)
    return told


def _taken(action: KitAction, root: Path, python: str, order: Mapping[str, Any]) -> dict[str, Any]:
    opened = engine_call.session(action, root)
    if opened:
        # Lost since it was opened: another is.
        with suppress(host_session.SessionLostError):
            return _locked(action, opened, order)
    # One that was begun ahead may be lost by now, and nobody has met that yet.
    with suppress(host_session.SessionLostError):
        return _locked(action, open_session(action, root, python), order)
    try:
        return _locked(action, open_session(action, root, python, anew=True), order)
    except host_session.SessionLostError as error:
        raise engine_call.unreachable(action, str(error)) from error


def _locked(action: KitAction, held: dict[str, Any], order: Mapping[str, Any]) -> dict[str, Any]:
    waited = False
    with host_session.asked(str(held["keeper"]), order) as answers:
        for told in answers:
            if "waiting" in told:
                waited = True
                action.say(str(told["waiting"]))
            elif told.get("ok"):
                return {"changed": False, **held, "token": told["token"], "waited": waited}
            else:
                return engine_call.answer(json.dumps(told), "", 1)
    raise host_session.SessionLostError("it said nothing more")


def free(action: KitAction, held: Mapping[str, Any]) -> dict[str, Any]:
    """Let a lock go at the end of a deploy.

    Args:
        action: the action plugin that calls.
        held: what :func:`take` gave.

    Returns:
        The task's result; a warning where the lock was lost meanwhile.
    """
    with (
        suppress(host_session.SessionLostError),
        host_session.asked(str(held["keeper"]), {"free": True}) as answers,
    ):
        if any("freed" in told for told in answers):
            return {"changed": False}
    text = f"The connection that held the lock of {action.host} was lost before the end; every step had ended by then."
    return {"changed": False, "warnings": [text]}


def who() -> str:
    """Tell who deploys from where: user@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A user without a name, as containers have them.
        user = str(os.getuid())
    return lock.here(user)


def _command(action: KitAction, command: str) -> tuple[list[str], str]:
    """The words that run a command on the host as the task would, and the password that its sudo wants first."""
    connection, password = action._connection, ""
    become = connection.become
    if become is not None and become.name.rpartition(".")[2] == "sudo":
        password = str(become.get_option("become_pass") or "")
        asks = "-S -p ''" if password else "-n"
        user = shlex.quote(str(become.get_option("become_user") or "root"))
        command = f"{become.get_option('become_exe') or 'sudo'} -H {asks} -u {user} {command}"
    elif become is not None:
        command = become.build_become_command(command, connection._shell)
    if connection.transport != "ssh":
        return ["sh", "-c", command], password
    connection.host = connection.get_option("host")
    program = str(connection.get_option("ssh_executable"))
    built = [os.fsdecode(word) for word in connection._build_command(program, "ssh", connection.host, command)]
    # Before the others, as SSH takes the first value of an option. A connection of its own: the one that tasks share
    # may be closed any time. Only a login by password, which none but Ansible is asked for, has to share it.
    own = [] if connection.get_option("password") else ["-o", "ControlMaster=no", "-o", "ControlPath=none"]
    return [program, "-o", "BatchMode=yes", *own, *built[built.index(program) + 1 :]], password


def _not_started(action: KitAction, python: str, code: int, said: str) -> KitError:
    if code == _SSH_FAILED and action.is_remote:
        return engine_call.unreachable(action, said)
    engine_call.demand(action, python, {"rc": code or 1, "stdout": "", "stderr": said})
    return KitError("engine", f"No session could be opened on {action.host}.", "repeat the command")
