"""Call a verb of the engine on the host over the task's own connection, show its progress, and read its answer."""

from __future__ import annotations

import hashlib
import json
import secrets
import shlex
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.utils.display import Display

from kit_control import engine_archive, engine_here, host_session, unreachable_host
from kit_control.action import KitAction
from kit_control.errors import KitError

# Judged without leaving anything on the host, the engine included.
_LEAVES_NOTHING = ("image-migrations", "plan", "preflight")
# What a control node does for itself, as the user who deploys.
_HERE = ("app-image", "base-images")
# What the tasks have registered that took the host's lock, judged the host (and locked it alone), and opened a session.
LOCK, JUDGED, CHECKED = "preflight_lock", "preflight_told", "release_bundle_checked"
# Often enough to look live; over SSH a look costs the host a tenth of a second, and short verbs get none.
LOOK_SECONDS, LOOK_SECONDS_REMOTE = 0.2, 1.5
# A step that takes longer is shown before it has ended.
PATIENCE_SECONDS = 3.0
# How sudo words it that it does not let a user through, or is not there.
_REFUSED_BY_SUDO = ("password", "sudoers", "not allowed", "not found")
# What our own shell lines answer with, apart from the exit codes of engine and shell.
_NO_PYTHON, _OLD_PYTHON, _OTHER_ENGINE = 95, 96, 97
# Ends the engine's own words on standard error; what follows is its progress, which may have been shown already.
_MARK = "--kit-progress--"

_RUN = (
    """progress=$1; python=$2; engine=$3; shift 3
( umask 022; set -C; : > "$progress" ) || exit 1
trap 'rm -f "$progress"' EXIT
KIT_PROGRESS=$progress "$python" "$engine" "$@"
code=$?
printf '%s\\n' '"""
    + _MARK
    + """' >&2
cat "$progress" >&2
exit $code
"""
)
_INSTALLED = (
    """sum=$1; shift
printf '%s  %s\\n' "$sum" "$3" | sha256sum --check --status 2> /dev/null || { cat > /dev/null; exit """
    # Read first: a sender whose pipe breaks would not see why.
    + str(_OTHER_ENGINE)
    + "; }\n"
    + _RUN
)
# Needs the variable python.
HAS_PYTHON = f"""command -v "$python" > /dev/null || exit {_NO_PYTHON}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' || exit {_OLD_PYTHON}
"""
# With its files compiled beside it (engine_archive.MAIN), but not in a deploy root here where they would be root's.
_INSTALL = (
    "python=$1; engine=$2; sum=$3; set -e\n"
    + HAS_PYTHON
    # A name of its own: another control node, or another host's task on this machine, may be at it too.
    + """bin=${engine%/*}; mkdir -p "$bin"; new=$(mktemp "$engine.XXXXXXXX"); trap 'rm -rf "$new" "$new.d"' EXIT
cat > "$new"; chmod 0755 "$new"
if [ -n "$sum" ] && [ ! -d "$bin/.engine-$sum" ]; then
  umask 022
  "$python" -m zipfile -e "$new" "$new.d"
  "$python" -m compileall -q "$new.d" > /dev/null
  rm -rf "$bin"/.engine-*
  # Whoever was quicker has brought the same.
  mv -T "$new.d" "$bin/.engine-$sum" 2> /dev/null || [ -d "$bin/.engine-$sum" ]
fi
mv -f "$new" "$engine"
"""
)
# The engine comes first on standard input, and just so much of it is read: the verb's own input follows.
_TEMPORARY = (
    "size=$1; shift; python=$2\n"
    + HAS_PYTHON
    + """folder=$(mktemp -d) || exit 1
"$python" -c '
import os, sys
left = int(sys.argv[2])
with open(sys.argv[1], "wb") as file:
    while left:
        part = os.read(0, min(left, 65536))
        left -= file.write(part) or sys.exit("cut off")
' "$folder/engine.pyz" "$size" || exit 1
export TMPDIR="$folder"
progress=$1; shift 3; set -- "$progress" "$python" "$folder/engine.pyz" "$@"
"""
    + _RUN.replace("""rm -f "$progress\"""", """rm -rf "$progress" "$folder\"""")
)


def call(
    action: KitAction, root: Path, python: str, verb: str, words: list[str], *, stdin: bytes | None = None
) -> dict[str, Any]:
    """Run one verb.

    Args:
        action: the action plugin that calls; its task's connection and privileges are used.
        root: the deploy root; the engine is brought to its bin/ first, unless nothing may be left on the host.
        python: the host's Python.
        verb: of the engine.
        words: its further arguments; never a secret, since a host's users see them.
        stdin: bytes for its standard input, such as secrets.

    Returns:
        The task's result; a failure carries the engine's own message.

    Raises:
        KitError: the host cannot be reached, may not be administered, or has no fitting Python.
    """
    archive, checksum = archive_and_sum()
    engine = root / "bin/engine.pyz"
    held = session(action, root)
    if verb not in _LEAVES_NOTHING and held.get("token"):
        words = [*words, "--session", str(held["token"])]
    # An engine that came with the session is not the host's own, and what is left there needs that.
    if held and (verb in _LEAVES_NOTHING or not held["brought"]):
        done = _over(action, held, ["--root", str(root), verb, "--json", *words], stdin or b"")
        if done:
            return answer(str(done["stdout"]), str(done["stderr"]), int(done["rc"]))
    if verb in _HERE and not (action.is_remote or action._task.become) and _has(engine, archive) and engine_here.can():
        done = engine_here.run(["--root", str(root), verb, "--json", *words], stdin or b"", _Lines(action).show)
        return answer(str(done["stdout"]), str(done["stderr"]), int(done["rc"]))
    progress = f"/tmp/kit-progress-{secrets.token_hex(8)}"  # noqa: S108 - made with noclobber, and a name not to guess
    arguments = [progress, python, str(engine), "--root", str(root), verb, "--json", *words]
    brought = False
    if verb in _LEAVES_NOTHING or (stdin is None and action._task.check_mode):
        done = _shown(action, _INSTALLED, [checksum, *arguments], progress, stdin)
        if done["rc"] == _OTHER_ENGINE:
            temporary = [str(len(archive)), *arguments]
            done = _shown(action, _TEMPORARY, temporary, progress, archive + (stdin or b""))
    else:
        if not action.is_remote:
            # Made as the caller, although the engine may be root: what is rendered lies here too.
            root.mkdir(parents=True, exist_ok=True)
        done = _shown(action, _INSTALLED, [checksum, *arguments], progress, stdin)
        if done["rc"] == _OTHER_ENGINE:
            compiled = checksum if action.is_remote or not action._task.become else ""
            installed = [python, str(engine), compiled]
            demand(action, python, run(action, _INSTALL, installed, archive))
            brought = True
            done = _shown(action, _INSTALLED, [checksum, *arguments], progress, stdin)
    demand(action, python, done, started=True)
    result = answer(str(done["stdout"]), str(done["stderr"]).partition(_MARK)[0], int(done["rc"]))
    result["changed"] = bool(result.get("changed")) or brought
    return result


def _has(engine: Path, archive: bytes) -> bool:
    """Whether the engine lies where people find it who call it by hand."""
    try:
        return engine.read_bytes() == archive
    except OSError:
        return False


def session(action: KitAction, root: Path) -> dict[str, Any]:
    """Find the session on a task's host (host_lock.open_session).

    Args:
        action: the task's action plugin.
        root: the deploy root.

    Returns:
        The session, with ``token`` where it holds the lock; empty where there is none.
    """
    here = str(action._task.delegate_to or action.host) == action.host
    told = [action.variables.get(name) or {} for name in (LOCK, JUDGED, CHECKED)]
    held: dict[str, Any] = told[0] or told[1].get("lock") or told[2].get("session") or {}
    # What runs in it has the privileges of the task that opened it.
    alike = held.get("became") == (action._connection.become is not None)
    return held if here and alike and held.get("root") == str(root) and "keeper" in held else {}


def _over(action: KitAction, held: dict[str, Any], words: list[str], stdin: bytes) -> dict[str, Any] | None:
    """Run a verb in a session; None where that is gone, and another connection tells why."""
    lines = _Lines(action)
    begun = False

    def show(text: str) -> None:
        nonlocal begun
        begun = True
        lines.show(text)

    try:
        return host_session.run(str(held["keeper"]), words, stdin, show)
    except host_session.SessionLostError as error:
        if begun:
            raise unreachable(action, str(error)) from error
        return None


def run(
    action: KitAction, script: str, words: list[str], stdin: bytes | None = None, *, as_root: bool = True
) -> dict[str, Any]:
    """Run a shell script on the host, with the privileges of the task.

    Args:
        action: whose connection is used.
        script: for sh; ``$1`` and so on are the words.
        words: its arguments.
        stdin: bytes for its standard input.
        as_root: False for the login user's own privileges, whatever the task has.

    Returns:
        ``rc``, ``stdout`` and ``stderr``.

    Raises:
        KitError: the host cannot be reached, or sudo there wants a password that was not given.
    """
    command = shlex.join(["sh", "-c", script, "kit", *words])
    try:
        # Without input Ansible asks SSH for a terminal, which would mix both streams.
        done: dict[str, Any] = action._low_level_execute_command(command, sudoable=as_root, in_data=stdin or b"\n")
    except AnsibleConnectionFailure as error:
        raise unreachable(action, str(error)) from error
    except AnsibleError as error:
        # Ansible's own word for a sudo that asks: "Missing sudo password".
        if "password" in str(error):
            raise _no_root(action, str(error)) from error
        raise
    return done


def demand_root(action: KitAction, done: dict[str, Any]) -> None:
    """Refuse what sudo refused.

    Args:
        action: whose host it was.
        done: how the command ended.

    Raises:
        KitError: the login user may not become root.
    """
    said = str(done["stderr"])
    if done["rc"] and "sudo" in said and any(word in said for word in _REFUSED_BY_SUDO):
        raise _no_root(action, said)


def _no_root(action: KitAction, said: str) -> KitError:
    place = action.host if action.is_remote else "this machine"
    return KitError(
        "sudo",
        f"The login user may not become root on {place}:\n    {unreachable_host.last_line(said)}",
        "allow it without a password"
        + (": make provision ARGS=--ask-become-pass does, once" if action.is_remote else "    (visudo)"),
    )


def unreachable(action: KitAction, said: str) -> KitError:
    """Turn what SSH said into host, cause and the next command.

    Args:
        action: whose host could not be reached.
        said: SSH's own words.
    """
    return unreachable_host.explain(action.host, action.address, said, action.login_words, action.known_name)


def demand(action: KitAction, python: str, done: dict[str, Any], *, started: bool = False) -> None:
    """Refuse what kept the engine from starting at all.

    Args:
        action: whose host it was.
        python: the host's Python.
        done: how the command ended.
        started: whether an engine that says something may have ended as it likes.

    Raises:
        KitError: why it did not start.
    """
    code, said = int(done["rc"]), str(done["stderr"])
    if code == 0 or (started and str(done["stdout"]).strip()):
        return
    address = action.host if action.is_remote else "this machine"
    if code == _NO_PYTHON:
        raise KitError("python", f"There is no `{python}` on {address}.", "apt-get install python3    (on the host)")
    if code == _OLD_PYTHON:
        raise KitError("python", f"`{python}` on {address} is older than 3.9.", "upgrade the host: Debian 12 has 3.11")
    demand_root(action, done)
    if not started:
        raise KitError(
            "engine",
            f"The engine could not be brought to {address}:\n    {unreachable_host.last_line(said)}",
            f"ssh {address}",
        )


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


@cache
def archive_and_sum() -> tuple[bytes, str]:
    """Give the engine's archive, and its hash."""
    content = engine_archive.build()
    return content, hashlib.sha256(content).hexdigest()


def _shown(
    action: KitAction, script: str, words: list[str], progress: str, stdin: bytes | None = None
) -> dict[str, Any]:
    shown = _Shown(action, progress)
    try:
        done = run(action, script, words, stdin)
    finally:
        shown.close()
    shown.rest(str(done["stderr"]).partition(f"{_MARK}\n")[2])
    return done


class _Lines:
    """Shows what a verb tells of itself, a line at a time.

    Args:
        action: whose verb it is.
    """

    def __init__(self, action: KitAction) -> None:
        self._prefix = f"[{action.host}] " if action.is_remote else ""
        self._begun = ""
        self._since = 0.0

    def show(self, new: str) -> None:
        """Take what is new; nothing new has a step that takes long shown before it has ended.

        Args:
            new: text.
        """
        if new:
            *whole, self._begun = (self._begun + new).split("\n")
            self._since = time.monotonic()
            for line in whole:
                Display().display(f"    {self._prefix}{line.rstrip()}")
        elif self._begun and self._since and time.monotonic() - self._since > PATIENCE_SECONDS:
            Display().display(f"    {self._prefix}{self._begun.rstrip()} (running)")
            self._since = 0.0


class _Shown:
    """Shows what is appended to a file on the host, until it is closed."""

    def __init__(self, action: KitAction, path: str) -> None:
        self._action = action
        self._path = path
        self._remote = action.is_remote
        self._lines = _Lines(action)
        self._seen = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more; a look under way is waited for."""
        self._ended.set()
        self._thread.join()

    def rest(self, everything: str) -> None:
        """Show what no look has seen.

        Args:
            everything: the file's whole text.
        """
        self._show(everything[self._seen :])

    def _follow(self) -> None:
        while not self._ended.wait(LOOK_SECONDS_REMOTE if self._remote else LOOK_SECONDS):
            self._show(self._look())

    def _look(self) -> str:
        try:
            if not self._remote:
                return Path(self._path).read_text(encoding="utf-8", errors="replace")[self._seen :]
            words = ["sh", "-c", 'cat "$1" 2> /dev/null', "kit", self._path]
            # As the login user: the connection remembers one sign of success of sudo, and the call itself may still be
            # waiting for its own.
            done = self._action._low_level_execute_command(shlex.join(words), sudoable=False, in_data=b"\n")
            return str(done["stdout"])[self._seen :]
        except (OSError, AnsibleConnectionFailure):
            # The call itself tells what is wrong; here only a look was missed.
            return ""

    def _show(self, new: str) -> None:
        self._seen += len(new)
        self._lines.show(new)
