"""Dump the stack's own PostgreSQL by its own client, and count its rows in the very snapshot that is dumped."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Optional

from kit_engine import backup_role, command, database, deadline, streams
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.stack import Database

# zstd's own default: on text and numbers about as small as gzip's 6, in a fraction of its time.
ZSTD, GZIP = "zstd:3", "gzip"
# Of what somebody else compresses.
NONE = "none"
_COMPRESS = {ZSTD: (f"--compress={ZSTD}",), GZIP: (), NONE: ("--compress=0",)}
# A release that alters a table may hold it for minutes; for longer, somebody should look.
LOCK_WAIT_MS = 300_000
FIRST_SECONDS = 60.0
ENDING_SECONDS = 2.0
# Below everything else: visitors come first. Whichever of the two programs the image has.
_LOW = (
    "low=; command -v nice >/dev/null && low='nice -n 10'; "
    'command -v ionice >/dev/null && low="$low ionice -t -c 2 -n 7"; exec $low "$@"'
)
# Beside psql, what dumps is asked how it compresses: from 16 on it knows the word zstd, but only some builds can do it,
# as they say at once.
_CLIENT = "client "
_ASK_CLIENT = f"""
{{ if %(probe)s >/dev/null 2>&1; then how={ZSTD}; else how={GZIP}; fi; echo "{_CLIENT}$how $(pg_dump --version)"; }} &
exec "$@"
"""
# One JSON array a table: its name as SQL writes it, its rows. What an extension brings is not dumped, but made anew.
_COUNT = """
SELECT format('SELECT json_build_array(%L, (SELECT count(*) FROM ONLY %I.%I))',
              format('%I.%I', n.nspname, c.relname), n.nspname, c.relname)"""
_TABLES = """
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
  ORDER BY n.nspname, c.relname
\\gexec
"""
_SET = """
SET search_path = pg_catalog;
SET statement_timeout = 0;
"""
COUNTS = f"{_SET}{_COUNT}{_TABLES}"
# A transaction holds the locks on each table and all its indexes to its end, and a server has room for some thousands
# in all. What is rolled back to a savepoint gives them back, and leaves the snapshot.
_COUNTS_WITHIN = f"{_SET}SAVEPOINT counted;{_COUNT}, 'ROLLBACK TO SAVEPOINT counted'{_TABLES}"
_BEGIN = """
SET idle_in_transaction_session_timeout = 0;
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT json_build_object('server', current_setting('server_version'), 'snapshot', pg_export_snapshot());
"""


@dataclass
class Snapshot:
    """One moment of a database.

    Attributes:
        id: by which other sessions see the same.
        server: version of the server, such as ``16.10``.
        rows: of each table; empty until the snapshot's block was left.
        taken: to be called when whoever reads by it alone has begun to: from then on the server keeps it for him, and
            the session that holds it counts to its end, and goes.
    """

    id: str
    server: str
    rows: dict[str, int] = field(default_factory=dict)
    taken: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Client:
    """The program that dumps.

    Attributes:
        version: such as ``16.10``.
        compression: how it compresses: ``zstd:3``, ``gzip`` where this build has no zstd, or ``none``.
    """

    version: str
    compression: str


class Session:
    """A session of the database's user, by which a backup is made from its first question on: starting one costs.

    Args:
        docker: the stack's containers.
        wanted: the database.
        running: psql, or what starts it.
        stdin: its input.
        stdout: what it says, and what it complains of; the client's own line (:data:`_CLIENT`) among it.
    """

    def __init__(
        self, docker: Docker, wanted: Database, running: subprocess.Popen[bytes], stdin: IO[bytes], stdout: IO[bytes]
    ) -> None:
        self.docker, self.wanted, self.running, self.stdin, self.stdout = docker, wanted, running, stdin, stdout
        self._client: Optional[Client] = None
        self._said = ""
        self.tell(f"SELECT json_build_object('bytes', {database.SIZE});\n")

    def size(self) -> int:
        """Give the bytes that the database takes on the server's disk.

        Raises:
            EngineError: it does not answer.
        """
        line = self.line("{")
        if not line:
            raise database.unanswered(self.docker, self.wanted, self.why())
        return int(json.loads(line)["bytes"])

    def client(self) -> Client:
        """Tell what dumps; raises as :meth:`size`."""
        if self._client is None:
            self.line(_CLIENT)
        if self._client is None:
            raise database.unanswered(self.docker, self.wanted, self.why())
        return self._client

    def tell(self, statements: str) -> None:
        """Have it do something; where it has ended already, what it said tells why."""
        with suppress(BrokenPipeError):
            self.stdin.write(statements.encode())
            self.stdin.flush()

    def line(self, begin: str) -> str:
        """Wait for a line that begins so; empty where none came before its end, or in time."""
        # What it is asked first waits for nobody: without an answer a day would pass before the session is ended.
        with deadline.after(FIRST_SECONDS, self.running.kill):
            # What it complains of comes between the lines wherever it likes.
            while line := self.stdout.readline().decode("utf-8", "replace"):
                if line.startswith(_CLIENT):
                    _, compression, version = line.split(maxsplit=2)
                    found = re.search(r"(\d+[.\w]*)", version)
                    self._client = Client(found[1] if found else "", compression)
                if line.startswith(begin):
                    return line
                if not line.startswith(_CLIENT):
                    self._said += line
            return ""

    def rest(self) -> str:
        """Wait for its end, and give all that it said and was not asked for line by line."""
        self._said += self.stdout.read().decode("utf-8", "replace")
        return self._said

    def why(self) -> str:
        """Tell why it does not answer."""
        return self._said.replace(backup_role.MADE, "").strip() or f"no answer within {FIRST_SECONDS:.0f} s"

    @property
    def became(self) -> bool:
        """Whether it got as far as to become the role that reads."""
        return backup_role.MADE in self._said


@contextmanager
def opened(docker: Docker, server: Container, wanted: Database) -> Iterator[Session]:
    """Open the session that a backup is made by; it may have ended before the block is left.

    Args:
        docker: the stack's containers.
        server: of the database.
        wanted: the database.

    Raises:
        EngineError: it was open for too long.
    """
    probe = shlex.join(["pg_dump", "--format=custom", f"--compress={ZSTD}", "--schema-only", "--exclude-schema=*",
                        "--no-password", f"--username={wanted.user}", f"--dbname={wanted.name}"])  # fmt: skip
    script = _ASK_CLIENT % {"probe": probe}
    words = ["docker", "exec", "--interactive", server.id, "sh", "-c", script, "sh"]
    words += backup_role.words(wanted.user, wanted.name)
    with streams.open_to(words, docker.stack.backup.timeout_seconds) as (running, stdin, stdout):
        yield Session(docker, wanted, running, stdin, stdout)


@contextmanager
def snapshot(docker: Docker, session: Session, wanted: Database) -> Iterator[Snapshot]:
    """Make the role that backups are made by, hold a moment of the database, and count its rows while others read it.

    Args:
        docker: the stack's containers.
        session: is over when the block is left.
        wanted: the database.

    Raises:
        EngineError: the database refuses, or ended the session.
    """
    session.tell(f"{backup_role.becoming(wanted)}{_BEGIN}{_COUNTS_WITHIN}")
    line = session.line("{")
    if not line:
        raise (_refused if session.became else backup_role.not_made)(docker, wanted, session.why())
    found = json.loads(line)

    def end() -> None:
        with suppress(BrokenPipeError):
            session.stdin.close()

    held = Snapshot(found["snapshot"], found["server"], taken=end)
    try:
        yield held
    except EngineError as error:
        # Who reads by a snapshot that is gone only says that; why it went, the session knows.
        with suppress(subprocess.TimeoutExpired):
            if session.running.wait(ENDING_SECONDS):
                raise _refused(docker, wanted, session.rest()) from error
        raise
    end()
    told = session.rest()
    if session.running.wait():
        raise _refused(docker, wanted, told)
    held.rows.update(rows_of(told.splitlines()))


def rows_of(lines: Iterable[str]) -> dict[str, int]:
    """Read what :data:`COUNTS` printed."""
    return {str(name): int(count) for name, count in (json.loads(line) for line in lines if line.startswith("["))}


def dump(
    docker: Docker, server: Container, wanted: Database, moment: Snapshot, client: Client, target: Path,
    progress: streams.Progress, look: Callable[[], None],
) -> str:  # fmt: skip
    """Write a dump in PostgreSQL's custom format.

    Args:
        docker: the stack's containers.
        server: of the database.
        wanted: the database.
        moment: which is dumped.
        client: what dumps it.
        target: file; must not be there.
        progress: told how large it is.
        look: called about once a second; what it raises ends the dump.

    Returns:
        The file's SHA-256.

    Raises:
        EngineError: pg_dump failed, or its output could not be written.
    """

    def each_second() -> None:
        look()
        # It writes nothing before it sees what the snapshot shows.
        if streams.size_of(target):
            moment.taken()

    return _into(docker, server, wanted, words_for(wanted, moment, client), target, progress, each_second)


def words_for(wanted: Database, moment: Snapshot, client: Client) -> list[str]:
    """Give the words by which pg_dump writes a dump to its standard output; the arguments are those of :func:`dump`."""
    return _words(wanted, moment, client, ["--format=custom"], backup_role.options(wanted))


def words_for_folder(wanted: Database, moment: Snapshot, client: Client, folder: str, count: int) -> list[str]:
    """Give the words by which pg_dump, coming over a network, writes a dump into a folder by several processes.

    Args:
        wanted: the database.
        moment: which is dumped; each process sees the same.
        client: what dumps it.
        folder: must not be there.
        count: of processes.
    """
    how = ["--format=directory", f"--jobs={count}", f"--file={folder}"]
    return _words(wanted, moment, client, how, backup_role.options_from_elsewhere(wanted))


def _words(wanted: Database, moment: Snapshot, client: Client, how: Sequence[str], login: Sequence[str]) -> list[str]:
    return [
        *("pg_dump", *how, *_COMPRESS[client.compression]),
        *(f"--snapshot={moment.id}", f"--lock-wait-timeout={LOCK_WAIT_MS}"),
        *("--no-password", *login, f"--dbname={wanted.name}"),
    ]


def dump_globals(docker: Docker, server: Container, wanted: Database, target: Path, look: Callable[[], None]) -> str:
    """Write roles and what they were granted, without their passwords; gives and raises as :func:`dump`."""
    words = [
        *("pg_dumpall", "--globals-only", "--no-role-passwords", "--no-password"),
        *(*backup_role.options(wanted), f"--database={wanted.name}"),
    ]
    return _into(docker, server, wanted, words, target, streams.Progress(None, ""), look)


def low(server: Container, words: Iterable[str], *, reads: bool = False) -> list[str]:
    """Give the command that runs words inside a container after everything else.

    Args:
        server: where.
        words: program and arguments.
        reads: whether it reads our standard input.
    """
    return ["docker", "exec", *(["--interactive"] if reads else []), server.id, "sh", "-c", _LOW, "sh", *words]


def _into(
    docker: Docker, server: Container, wanted: Database, words: list[str], target: Path, progress: streams.Progress,
    look: Callable[[], None],
) -> str:  # fmt: skip
    written = streams.Growing(target)

    def each_second() -> None:
        look()
        written.follow()

    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        # Straight into the file: its exit code is the dump's own.
        code, said = streams.moved(
            low(server, words), limit=docker.stack.backup.timeout_seconds, progress=progress, out=file,
            look=each_second,
        )  # fmt: skip
        os.fsync(file.fileno())
    if code or not streams.size_of(target):
        raise failed(docker, wanted, words, code, said)
    return written.sha256()


def failed(docker: Docker, wanted: Database, words: Sequence[str], code: int, said: str) -> EngineError:
    """Say that a program which dumps has failed.

    Args:
        docker: the stack's containers.
        wanted: the database.
        words: the program, and its arguments.
        code: its exit code.
        said: what it complained of.
    """
    return EngineError(
        "backup",
        f"The database could not be backed up; {words[0]} ended with {code}:\n"
        f"{command.tail(said)}\nNothing was changed.",
        wanted.look(docker.stack),
    )


def _refused(docker: Docker, wanted: Database, said: str) -> EngineError:
    return EngineError(
        "backup",
        f"Database {wanted.name} ({wanted.place}) does not let role {backup_role.reader(wanted)} read it:\n"
        f"{command.tail(said)}\nNothing was changed.",
        wanted.look(docker.stack),
    )
