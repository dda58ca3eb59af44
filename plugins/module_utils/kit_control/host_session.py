"""What runs on a host during a deploy, over one connection that stays open: see lock_keeper and kit_engine.session."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

# Of the keeper, which is on this machine.
_ANSWER_SECONDS = 5.0


class SessionLostError(Exception):
    """The session is gone, or went in the middle of what was asked."""


@contextmanager
def asked(keeper: str, order: Mapping[str, Any], content: bytes = b"") -> Iterator[Iterator[dict[str, Any]]]:
    """Give an order to a session.

    Args:
        keeper: path of its keeper's socket.
        order: as of kit_engine.session, or ``free``.
        content: bytes that belong to it.

    Returns:
        What is told of it, as it happens; its caller knows which of them is the last.

    Raises:
        SessionLostError: before the first of them is told, or between two of them.
    """
    mine = secrets.token_hex(4)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(_ANSWER_SECONDS)
            connection.connect(keeper)
            # However long a verb takes: the task has a time limit.
            connection.settimeout(None)
            connection.sendall(json.dumps({**order, "id": mine, "size": len(content)}).encode() + b"\n" + content)
        except OSError as error:
            raise SessionLostError(str(error)) from error
        with cast("IO[bytes]", connection.makefile("rb")) as lines:
            yield _told(lines, mine)


def leave_with(keeper: str, words: list[str]) -> None:
    """Have a verb run that nobody waits for; what is asked next comes after it.

    Args:
        keeper: path of the keeper's socket.
        words: the verb's command line.
    """
    # A session that is gone is met by whoever asks next.
    with suppress(SessionLostError), asked(keeper, {"call": words}):
        pass


def run(keeper: str, words: list[str], content: bytes, show: Any) -> dict[str, Any]:
    """Run a verb.

    Args:
        keeper: path of the keeper's socket.
        words: the verb's command line.
        content: its standard input.
        show: is called with what it tells of itself.

    Returns:
        ``rc``, ``stdout`` and ``stderr``, as Ansible's connections give them.

    Raises:
        SessionLostError: the session is gone.
    """
    with asked(keeper, {"call": words}, content) as answers:
        for told in answers:
            if "progress" in told:
                show(str(told["progress"]))
            elif "ended" in told:
                return {"rc": int(told["ended"]), "stdout": told["out"], "stderr": told["err"]}
    raise SessionLostError("it said nothing more")


def _told(lines: IO[bytes], mine: str) -> Iterator[dict[str, Any]]:
    try:
        for line in lines:
            told: dict[str, Any] = json.loads(line)
            if "lost" in told:
                raise SessionLostError(str(told["lost"]))
            # Of an order whose task has gone, the rest may come yet.
            if told.pop("id", mine) == mine:
                yield told
    except OSError as error:
        raise SessionLostError(str(error)) from error
