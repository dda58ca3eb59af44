"""Verbs that run in a fork of a process that has loaded the engine: a start of Python takes longer than most of them.

What a verb reads and writes are files in memory. Neither a lost connection nor a session that was killed can break them
under a verb that is in the middle of what it must finish.
"""

from __future__ import annotations

import codecs
import gc
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import NoReturn, Optional

# What most verbs of a deploy load.
_LOADED = ("cli", "preflight_verb", "images_verbs", "releasing")
# In the order in which a fork is given them.
_FILES = ("words", "in", "out", "err", "progress")


class Files:
    """What one verb reads and writes.

    Attributes:
        descriptors: by what is in them; :func:`be` takes them.

    Args:
        words: its command line.
        content: its standard input.
    """

    def __init__(self, words: Sequence[str], content: bytes) -> None:
        self.descriptors = {name: os.memfd_create(f"kit-{name}") for name in _FILES}
        self._seen = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for name, text in (("words", json.dumps(list(words)).encode()), ("in", content)):
            with open(self.descriptors[name], "wb", closefd=False) as file:
                file.write(text)
            os.lseek(self.descriptors[name], 0, os.SEEK_SET)

    def progress(self) -> str:
        """Give what the verb told of itself since this was asked last."""
        new = self._read("progress", self._seen)
        self._seen += len(new)
        return self._decoder.decode(new)

    def printed(self) -> dict[str, str]:
        """Take what the verb printed, ``out`` and ``err``; it has ended, and nothing is left of its files."""
        told = {name: self._read(name).decode(errors="replace") for name in ("out", "err")}
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        return told

    def _read(self, name: str, begin: int = 0) -> bytes:
        descriptor = self.descriptors[name]
        return os.pread(descriptor, os.fstat(descriptor).st_size, begin)


class Calls:
    """Runs verbs, one at a time.

    Made before the session takes the lock: a verb that changes the host joins the session for it, as every step does.
    """

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair()
        # False once nothing can be run any more.
        self.alive = True
        self._files: Optional[Files] = None
        sys.stdout.flush()
        if os.fork() == 0:
            self._channel.close()
            _wait_for_work(theirs)
        theirs.close()

    def fileno(self) -> int:
        """Readable when the verb has ended."""
        return self._channel.fileno()

    @property
    def busy(self) -> bool:
        """Whether a verb runs."""
        return self._files is not None

    def begin(self, words: Sequence[str], content: bytes) -> None:
        """Start a verb.

        Args:
            words: its command line.
            content: its standard input.
        """
        self._files = Files(words, content)
        socket.send_fds(self._channel, [b"."], list(self._files.descriptors.values()))

    def progress(self) -> str:
        """Give what the verb told of itself since this was asked last."""
        return self._files.progress() if self._files else ""

    def ended(self) -> dict[str, object]:
        """Take how the verb ended.

        Returns:
            ``ended`` (exit code; negative: the signal that killed it), ``out`` and ``err`` (what it printed).
        """
        told = self._channel.recv(64)
        self.alive = bool(told)
        printed = self._files.printed() if self._files else {"out": "", "err": ""}
        self._files = None
        return {"ended": int(told) if told else -int(signal.SIGKILL), **printed}


def _wait_for_work(channel: socket.socket) -> None:
    """Run one verb after the other until the session has gone; never returns."""
    try:
        # What ends the session is not meant for the verbs: it tells each by itself.
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        for name in _LOADED:
            import_module(f"kit_engine.{name}")
        gc.freeze()
        while True:
            told, descriptors, _, _ = socket.recv_fds(channel, 1, len(_FILES))
            if not told:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                channel.close()
                be(dict(zip(_FILES, descriptors)))
            for descriptor in descriptors:
                os.close(descriptor)
            _, status = os.waitpid(pid, 0)
            with suppress(BrokenPipeError):
                channel.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    except BaseException:
        os._exit(1)


def be(files: Mapping[str, int]) -> NoReturn:
    """Be one verb, in a process made for it by a fork; never returns.

    Args:
        files: descriptors of a :class:`Files`.
    """
    code: Optional[int] = 1
    try:
        for number, name in enumerate(("in", "out", "err")):
            os.dup2(files[name], number)
        # What these were in the process that forked may lead elsewhere.
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(number, mode, encoding="utf-8") for number, mode in enumerate("rww")
        )
        os.environ["KIT_PROGRESS"] = f"/proc/self/fd/{files['progress']}"
        with open(files["words"], "rb", closefd=False) as file:
            words = json.load(file)
        code = import_module("kit_engine.cli").main(words)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
