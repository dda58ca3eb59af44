"""restic, which keeps copies of backups elsewhere: how it is started, and how it finds its place and its secrets.

Its secrets are one file of the release, which nobody but root reads; restic gets them as variables, and SSH its key as
a file in memory for as long as that takes.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, TypeVar

from kit_engine import command, masking, memory_files, pipes, streams
from kit_engine.errors import EngineError
from kit_engine.report import Report
from kit_engine.stack import OFFSITE_SECRETS, Stack

CACHE = "shared/restic"
# A question waits for a place that is far away, not for one that is gone.
ASK_SECONDS = 60.0
CONNECT_SECONDS = 20
# restic's own exit code where it could not read a file: its snapshot is there, and lacks it.
INCOMPLETE = 3
# Visitors come first.
_LOW = ("nice", "-n", "10")
# The two ways in which restic writes a place that is reached by SFTP.
_SFTP = re.compile(r"^sftp:(?://(?P<login>[^/:]+)(?::(?P<port>\d+))?/|(?P<short>[^/:]+):)")
_SHOWN_LINES = 5
# What it complains of; newer ones write the last line so too.
_ERRORS = ("error", "exit_error")
# Another host removes something there meanwhile. restic itself waits for that from 0.16 on only.
_LOCKED = "repository is already locked"
LOCK_SECONDS = 600.0
LOOK_SECONDS = 5.0
_MOST_LOCKS = 20
_Done = TypeVar("_Done")


@dataclass(frozen=True)
class Moved:
    """How a command that moves much has ended: its exit code, what it complained of, and its own account."""

    code: int
    said: str
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """Where copies lie.

    Attributes:
        stack: whose.
        words: what begins every command.
        env: the place's address and its secrets.
        secrets: values that no message may hold.
        log: of SSH, where the place is reached by it.
    """

    stack: Stack
    words: tuple[str, ...]
    env: Mapping[str, str]
    secrets: tuple[str, ...]
    log: Path

    def ask(self, *words: str) -> Any:
        """Ask a question that needs no lock there, so that it may be read-only.

        Returns:
            restic's answer, read as JSON.

        Raises:
            EngineError: no answer in time, or a refusal.
        """
        said = self.demand(*words, "--no-lock", "--json")
        try:
            return json.loads(said)
        except ValueError:
            raise self.failure(words[0], said) from None

    def demand(self, *words: str, limit: float = ASK_SECONDS) -> str:
        """Run a command that must succeed within so many seconds; returns its output, raises as :meth:`ask`."""
        try:
            done = command.run([*_LOW, *self.words, *words], limit=limit, env=self.env)
        except EngineError as error:
            if error.code != "timeout":
                raise
            raise self._late(words[0], limit) from None
        if done.code:
            raise self.failure(words[0], done.err or done.out)
        return done.out

    def program(self, *words: str) -> pipes.Program:
        """Give what runs a command whose output or input is handed over."""
        return pipes.Program((*_LOW, *self.words, *words), {**self.env, "RESTIC_PROGRESS_FPS": "0.1"})

    def moved(self, words: Sequence[str], folder: Path, progress: streams.Progress) -> Moved:
        """Run a command that moves much, anew where the place was locked.

        Args:
            words: of the command.
            folder: where it is started.
            progress: told the bytes that are done.

        Returns:
            How it ended.

        Raises:
            EngineError: it did not end in time.
        """
        return self._once_free(
            lambda: self._moved(words, folder, progress), lambda done: _LOCKED in done.said, progress.report
        )

    def _moved(self, words: Sequence[str], folder: Path, progress: streams.Progress) -> Moved:
        said: list[str] = []
        summary: Mapping[str, Any] = {}
        limit = self.stack.backup.timeout_seconds
        program = [*_LOW, *self.words, "--json", *words]
        env = {**self.env, "RESTIC_PROGRESS_FPS": "0.5"}
        with streams.open_to(program, limit, env=env, folder=folder) as (running, stdin, stdout):
            stdin.close()
            for line in stdout:
                told = _json(line)
                if told is None or told.get("message_type") in _ERRORS:
                    said = [*said, line.decode("utf-8", "replace").rstrip()][-_SHOWN_LINES:]
                elif told.get("message_type") == "summary":
                    summary = told
                elif told.get("message_type") == "status":
                    progress.total = int(told.get("total_bytes", 0))
                    progress.at(int(told.get("bytes_done", 0)))
            return Moved(running.wait(), masking.masked("\n".join(said), self.secrets), summary)

    def demand_free(self, report: Report) -> None:
        """Wait until nothing there keeps a new backup from beginning: one that is streamed cannot be begun anew.

        Args:
            report: where it is told.

        Raises:
            EngineError: the place does not answer, or stays locked for longer than :data:`LOCK_SECONDS`.
        """
        holder = self._once_free(self._holder, bool, report)
        if holder:
            problem = f"The place is locked exclusively by {holder}; where that has ended, `restic unlock` frees it."
            raise EngineError("offsite", problem, self.stack.make("backup"))

    def _holder(self) -> str:
        """Tell who has locked it for itself alone; empty for nobody."""
        # Where credentials may only add, locks stay for ever, and reading all of them would take too long.
        for one in self.demand("list", "locks", "--no-lock").split()[:_MOST_LOCKS]:
            # It may go meanwhile.
            with suppress(EngineError, ValueError, KeyError):
                told = json.loads(self.demand("cat", "lock", "--no-lock", one))
                if told["exclusive"]:
                    return f"process {told['pid']} of host {told['hostname']} since {told['time']}"
        return ""

    @staticmethod
    def _once_free(run: Callable[[], _Done], locked: Callable[[_Done], bool], report: Optional[Report]) -> _Done:
        """Run something anew for as long as a lock there keeps it from beginning, and no longer than LOCK_SECONDS."""
        end, told = time.monotonic() + LOCK_SECONDS, False
        while locked(done := run()) and time.monotonic() < end:
            if report and not told:
                report.say("    off-site is locked by another run, waiting …")
                told = True
            time.sleep(LOOK_SECONDS)
        return done

    def _late(self, what: str, limit: float) -> EngineError:
        remedy = "see that this host reaches it (network, firewall, the server's own log), then repeat the command"
        if limit == self.stack.backup.timeout_seconds:
            remedy += f"; for what takes longer: backup_timeout_seconds in inventories/{self.stack.env}"
        said = f"{self.env['RESTIC_REPOSITORY']} has not answered within {limit:.0f} s; it was stopped."
        return self.failure(what, said, remedy)

    def failure(self, what: str, said: str, remedy: str = "") -> EngineError:
        """Word that a command failed: ``what`` of restic's own commands, what it said, and what helps if we know."""
        told = command.tail(said, _SHOWN_LINES)
        log = self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""
        told += f"\n{command.tail(log, _SHOWN_LINES)}" if log else ""
        return EngineError(
            "offsite",
            f"`restic {what}` failed:\n{masking.masked(told, self.secrets)}",
            remedy or f"mend what is named above, then: {self.stack.make('copy-offsite')}",
        )


@contextmanager
def opened(stack: Stack) -> Iterator[Place]:
    """Have restic find its place and its secrets until the block is left.

    Args:
        stack: whose; a place is configured.

    Raises:
        EngineError: restic is not installed, or the secrets are lacking or damaged.
    """
    missing = lacking(stack)
    if missing:
        raise missing
    told = _secrets(stack)
    place = stack.backup.offsite_repository
    values = {str(name): str(value) for name, value in (told.get("environment") or {}).items()}
    env = {**values, "RESTIC_REPOSITORY": place, "RESTIC_CACHE_DIR": str(stack.root / CACHE)}
    with memory_files.folder("kit-offsite-") as folder:
        files = {name: folder / name for name in ("ssh_key", "known_hosts") if told.get(name)}
        for name, path in files.items():
            path.touch(mode=0o600)
            path.write_text(str(told[name]).rstrip("\n") + "\n", encoding="utf-8")
        log = folder / "ssh.log"
        words = ["restic", *_ssh(place, files, log)]
        secrets = (*values.values(), str(told.get("ssh_key") or ""))
        yield Place(stack, tuple(words), env, secrets, log)


def lacking(stack: Stack) -> Optional[EngineError]:
    """Say that restic is not here although backups shall be copied off-site; None where all is well."""
    if not stack.backup.offsite_repository or shutil.which("restic"):
        return None
    return EngineError("offsite", "restic is not installed on this host.", f"{stack.make('provision')}    (brings it)")


def _secrets(stack: Stack) -> Mapping[str, Any]:
    path = stack.bundle / "secrets" / OFFSITE_SECRETS
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        told = {}
    except ValueError:
        told = None
    if not isinstance(told, dict) or not (told.get("environment") or {}).get("RESTIC_PASSWORD"):
        raise EngineError("offsite", f"{path} has no RESTIC_PASSWORD.", stack.make("deploy") + "    (writes it)")
    return told


def _ssh(place: str, files: Mapping[str, Path], log: Path) -> list[str]:
    """The words that have restic use our key and the host keys that we know, where the place is reached by SFTP."""
    found = _SFTP.match(place)
    if found is None:
        return []
    # restic may end before it has read what SSH says of the reason.
    words = ["ssh", "-E", str(log), "-o", "BatchMode=yes"]
    words += ["-o", f"ConnectTimeout={CONNECT_SECONDS}", "-o", "ServerAliveInterval=15"]
    if "ssh_key" in files:
        words += ["-o", "IdentitiesOnly=yes", "-i", str(files["ssh_key"])]
    if "known_hosts" in files:
        words += ["-o", f"UserKnownHostsFile={files['known_hosts']}", "-o", "StrictHostKeyChecking=yes"]
    words += ["-p", found["port"]] if found["port"] else []
    words += [str(found["login"] or found["short"]), "-s", "sftp"]
    return ["-o", f"sftp.command={shlex.join(words)}"]


def _json(line: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(line)
    except ValueError:
        return None
    return told if isinstance(told, dict) else None
