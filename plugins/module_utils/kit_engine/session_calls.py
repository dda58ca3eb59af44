"""The verbs that a session runs, each in a fork of a process that has loaded the engine: a start of Python takes longer
than most of them.

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
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Optional

# What most verbs of a deploy load.
_LOADED = ("cli", "preflight_verb", "images_verbs", "releasing")
# In the order in which a fork is given them.
_FILES = ("words", "in", "out", "err", "progress")


class Calls:
    """Runs verbs, one at a time.

    Made before the session takes the lock: a verb that changes the host joins the session for it, as every step does.
    """

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair()
        # False once nothing can be run any more.
        self.alive = True
        self._files: dict[str, int] = {}
        self._seen = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
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
        return bool(self._files)

    def begin(self, words: Sequence[str], content: bytes) -> None:
        """Start a verb.

        Args:
            words: its command line.
            content: its standard input.
        """
        self._files = {name: os.memfd_create(f"kit-{name}") for name in _FILES}
        self._seen = 0
        self._decoder.reset()
        for name, text in (("words", json.dumps(list(words)).encode()), ("in", content)):
            with open(self._files[name], "wb", closefd=False) as file:
                file.write(text)
            os.lseek(self._files[name], 0, os.SEEK_SET)
        socket.send_fds(self._channel, [b"."], list(self._files.values()))

    def progress(self) -> str:
        """Give what the verb told of itself since this was asked last."""
        new = os.pread(self._files["progress"], os.fstat(self._files["progress"]).st_size, self._seen)
        self._seen += len(new)
        return self._decoder.decode(new)

    def ended(self) -> dict[str, object]:
        """Take how the verb ended.

        Returns:
            ``ended`` (exit code; negative: the signal that killed it), ``out`` and ``err`` (what it printed).
        """
        told = self._channel.recv(64)
        self.alive = bool(told)
        result: dict[str, object] = {"ended": int(told) if told else -int(signal.SIGKILL), "out": "", "err": ""}
        for name in ("out", "err") if self._files else ():
            size = os.fstat(self._files[name]).st_size
            result[name] = os.pread(self._files[name], size, 0).decode(errors="replace")
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}
        return result


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
                _run(dict(zip(_FILES, descriptors)))
            for descriptor in descriptors:
                os.close(descriptor)
            _, status = os.waitpid(pid, 0)
            with suppress(BrokenPipeError):
                channel.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    except BaseException:
        os._exit(1)


def _run(files: dict[str, int]) -> None:
    """Be one verb; never returns."""
    code: Optional[int] = 1
    try:
        for number, name in enumerate(("in", "out", "err")):
            os.dup2(files[name], number)
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
