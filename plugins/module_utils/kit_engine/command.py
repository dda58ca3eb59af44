"""Run other programs: always with a time limit, and with a message that names the program when it fails."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from kit_engine import lock, signals
from kit_engine.errors import EngineError

# The last lines say why a program failed; more would hide it.
SHOWN_LINES = 15
# An engine that is alive answers a question within 0.1 s; a busy one on a slow disk may take seconds.
QUICK_SECONDS = 30.0
# Compose's own program, which Docker's client starts for `docker compose`.
COMPOSE = "docker-compose"


@dataclass(frozen=True)
class Done:
    """A program that has ended."""

    code: int
    out: str
    err: str


def run(
    argv: Sequence[str],
    *,
    limit: float = QUICK_SECONDS,
    stdin: str | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
) -> Done:
    """Run a program to its end, whatever that is.

    Args:
        argv: program and arguments; never a secret.
        limit: seconds after which it is killed.
        stdin: text for its standard input, or a file; without it there is none.
        env: variables on top of our own.

    Returns:
        Exit code and output.

    Raises:
        EngineError: the program is not installed, or took too long.
    """
    try:
        done = subprocess.run(  # noqa: S603 - an argument list of our own, no shell
            list(argv),
            input=stdin if isinstance(stdin, str) else None if stdin else "",
            stdin=None if isinstance(stdin, str) else stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=limit,
            env={**os.environ, **(env or {})},
            check=False,
            # The lock is free only when the last of what we started has ended.
            pass_fds=lock.inherited(),
            # Ctrl-C goes to all of a terminal's group.
            start_new_session=signals.deferring(),
        )
    except FileNotFoundError:
        raise EngineError("missing", f"There is no `{argv[0]}` on this host's PATH.", f"install {argv[0]}") from None
    except OSError as error:
        problem = f"`{argv[0]}` cannot be run on this host: {error.strerror}."
        raise EngineError("missing", problem, f"file -L {shlex.quote(argv[0])}    (is it for this machine?)") from None
    except subprocess.TimeoutExpired:
        raise EngineError(
            "timeout",
            f"`{readable(argv)}` was given {limit:.0f} s and has not ended; it was stopped.",
            "docker info    (does the engine answer at all?), then repeat the command",
        ) from None
    return Done(done.returncode, done.stdout, done.stderr)


def demand(
    argv: Sequence[str],
    *,
    code: str,
    remedy: str,
    limit: float = QUICK_SECONDS,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Done:
    """Run a program that must succeed.

    Args:
        argv: program and arguments.
        code: code of the error if it fails.
        remedy: what to type next if it fails.
        limit: seconds after which it is killed.
        stdin: text for its standard input.
        env: variables on top of our own.

    Returns:
        Its output; the exit code is 0.

    Raises:
        EngineError: it failed, is not installed or took too long.
    """
    done = run(argv, limit=limit, stdin=stdin, env=env)
    if done.code:
        raise EngineError(code, f"`{readable(argv)}` ended with {done.code}:\n{tail(done.err or done.out)}", remedy)
    return done


def begin(argv: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a program that others do not wait for.

    Args:
        argv: program and arguments; never a secret. Its output is lost, its errors are kept: a few lines at most.
        env: variables on top of our own.

    Returns:
        The program.
    """
    return subprocess.Popen(  # noqa: S603 - an argument list of our own, no shell
        list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, **(env or {})}, pass_fds=lock.inherited(), start_new_session=signals.deferring(),
    )  # fmt: skip


@contextmanager
def begun(argv: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program beside the block; it is ended with a block that fails.

    Args:
        argv: as :func:`begin` takes it.

    Returns:
        The program.
    """
    with begin(argv) as running:
        try:
            yield running
        except BaseException:
            running.kill()
            raise


def tail(text: str, lines: int = SHOWN_LINES) -> str:
    """Give the last lines of a text, indented for a message."""
    kept = [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]
    return "\n".join(f"    {line}" for line in kept) or "    (it said nothing)"


def readable(argv: Sequence[str]) -> str:
    """Write a command as it would be typed, without the flags that every Compose call carries."""
    words = list(argv)
    if words[0].endswith(f"/{COMPOSE}"):
        words = ["docker", "compose", *words[1:]]
    if words[:2] == ["docker", "compose"]:
        rest = words[2:]
        while rest and rest[0].startswith("--"):
            rest = rest[2:]
        words = ["docker", "compose", *rest]
    text = " ".join(shlex.quote(word) for word in words)
    return text if len(text) <= 160 else f"{text[:157]}..."
