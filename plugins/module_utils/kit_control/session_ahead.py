"""Sessions on hosts that are begun before Ansible is loaded, by the commands that reached them last time.

They are kept under a hash of what they are made of, as far as that is known so early: the inventories, and Ansible's
settings. Whether they still hold is for Ansible to say: a task takes up what was begun by the very words that it would
begin it by itself. What nobody takes up has done nothing on its host, and ends with the run.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, ClassVar, cast

from kit_control import memo

# What opens sessions, and is waited for.
PLAYBOOKS = ("deploy", "rollback")
# Of more, the start would hold up Ansible's own on this machine.
MOST_HOSTS = 8
# What an option of the user's own may ask for, but for these, need not reach the hosts at all: --check, --limit.
_KNOWN = ("-i", "-e")
_PACKAGES = Path(__file__).resolve().parents[1]


class _Run:
    """What tasks, which are forks of it, know of the run: the hash of what it was given, and its sessions."""

    key = ""
    begun: ClassVar[dict[str, subprocess.Popen[bytes]]] = {}


def begin(arguments: Sequence[str]) -> None:
    """Begin the sessions that a run will want; whatever hinders it, Ansible meets by itself.

    Args:
        arguments: of ansible-playbook.
    """
    sources = _sources(arguments)
    if not sources:
        return
    with suppress(OSError, ValueError, TypeError):
        _Run.key = _key(sources)
        for path in sorted(memo.FOLDER.glob(f"session-{_Run.key}-*"))[:MOST_HOSTS]:
            argv = json.loads(path.read_bytes())
            _Run.begun[_name(argv)] = start({"command": argv, "password": "", "run": os.getpid()})


def begun(argv: Sequence[str]) -> subprocess.Popen[bytes] | None:
    """Give the keeper of the session that was begun by a command; None where none was.

    Args:
        argv: the command.
    """
    return _Run.begun.get(_name(argv))


def keep(host: str, argv: Sequence[str]) -> None:
    """Note by which command a host was reached, for the next run that is given the same.

    Args:
        host: its name in the inventory.
        argv: the command; no password belongs to it.
    """
    if not _Run.key:
        return
    path = memo.FOLDER / f"session-{_Run.key}-{_name([host])}"
    content = json.dumps(list(argv)).encode()
    with suppress(OSError):
        if not path.is_file() or path.read_bytes() != content:
            memo.keep(path, content)


def start(given: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start a process that opens a session, and keeps it once it is told to: see lock_keeper.

    Args:
        given: what it is told first.
    """
    keeper = subprocess.Popen(
        [sys.executable, "-m", "kit_control.lock_keeper"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Ctrl-C is for ansible-playbook; its end is noticed.
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(_PACKAGES)},
    )
    to_keeper = cast("IO[bytes]", keeper.stdin)
    to_keeper.write(json.dumps(given).encode() + b"\n")
    to_keeper.flush()
    return keeper


def _sources(arguments: Sequence[str]) -> list[str]:
    """The inventories of a run that opens sessions; none for any other."""
    words = iter(arguments)
    sources, playbooks = [], []
    for word in words:
        if word in _KNOWN:
            value = next(words, "")
            sources += [value] if word == "-i" else []
        elif not word.startswith("-"):
            playbooks.append(Path(word).stem)
        elif word.strip("v") != "-":
            return []
    return sources if len(playbooks) == 1 and playbooks[0] in PLAYBOOKS else []


def _key(sources: Sequence[str]) -> str:
    told = hashlib.sha256()
    settings = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("ANSIBLE_"))
    told.update(json.dumps([list(sources), settings]).encode())
    for path in ("ansible.cfg", *sources):
        for file in sorted([Path(path), *Path(path).rglob("*")]):
            if file.is_file():
                told.update(f"\n{file}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
    return told.hexdigest()[:16]


def _name(words: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(words)).encode()).hexdigest()[:16]
