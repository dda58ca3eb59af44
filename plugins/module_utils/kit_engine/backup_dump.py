"""Dump the stack's own PostgreSQL by its own client, and count its rows in the very snapshot that is dumped."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kit_engine import backup_role, command, streams
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
# One JSON array a table: its name as SQL writes it, its rows. What an extension brings is not dumped, but made anew.
COUNTS = """
SET search_path = pg_catalog;
SET statement_timeout = 0;
SELECT format('SELECT json_build_array(%L, (SELECT count(*) FROM ONLY %I.%I))',
              format('%I.%I', n.nspname, c.relname), n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
  ORDER BY n.nspname, c.relname
\\gexec
"""
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
    """

    id: str
    server: str
    rows: dict[str, int]


@dataclass(frozen=True)
class Client:
    """The program that dumps.

    Attributes:
        version: such as ``16.10``.
        compression: how it compresses: ``zstd:3``, ``gzip`` where this build has no zstd, or ``none``.
    """

    version: str
    compression: str


@contextmanager
def snapshot(docker: Docker, server: Container, wanted: Database) -> Iterator[Snapshot]:
    """Make the role that backups are made by, hold a moment of the database, and count its rows while others read it.

    Args:
        docker: the stack's containers.
        server: of the database.
        wanted: the database.

    Raises:
        EngineError: the database refuses, or ended the session.
    """
    words = ["docker", "exec", "--interactive", server.id, *backup_role.words(wanted.user, wanted.name)]
    with streams.open_to(words, docker.stack.backup.timeout_seconds) as (session, stdin, stdout):
        # Where it has ended already, what it said tells why.
        with suppress(BrokenPipeError):
            stdin.write(f"{backup_role.becoming(wanted)}{_BEGIN}{COUNTS}".encode())
            stdin.flush()
        # What it is asked first waits for nobody: without an answer a day would pass before the session is ended.
        late = threading.Timer(FIRST_SECONDS, session.kill)
        late.start()
        before = ""
        # What it complains of comes between the lines wherever it likes.
        while (line := stdout.readline().decode("utf-8", "replace")) and not line.startswith("{"):
            before += line
        late.cancel()
        if not line:
            said = before.replace(backup_role.MADE, "").strip() or f"no answer within {FIRST_SECONDS:.0f} s"
            raise (_refused if backup_role.MADE in before else backup_role.not_made)(docker, wanted, said)
        found = json.loads(line)
        held = Snapshot(found["snapshot"], found["server"], {})
        try:
            yield held
        except EngineError as error:
            # Who reads by a snapshot that is gone only says that; why it went, the session knows.
            with suppress(subprocess.TimeoutExpired):
                if session.wait(ENDING_SECONDS):
                    raise _refused(docker, wanted, stdout.read().decode("utf-8", "replace")) from error
            raise
        with suppress(BrokenPipeError):
            stdin.close()
        told = stdout.read().decode("utf-8", "replace")
        if session.wait():
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
    return _into(docker, server, wanted, words_for(wanted, moment, client), target, progress, look)


def words_for(wanted: Database, moment: Snapshot, client: Client) -> list[str]:
    """Give the words by which pg_dump writes a dump to its standard output; the arguments are those of :func:`dump`."""
    return [
        *("pg_dump", "--format=custom", *_COMPRESS[client.compression]),
        *(f"--snapshot={moment.id}", f"--lock-wait-timeout={LOCK_WAIT_MS}"),
        *("--no-password", *backup_role.options(wanted), f"--dbname={wanted.name}"),
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


def client_of(docker: Docker, server: Container, wanted: Database) -> Client:
    """Ask the build: from 16 on pg_dump knows the word zstd, but only some can do it, as they say at once.

    Args:
        docker: the stack's containers.
        server: of the database.
        wanted: the database.
    """
    probe = f"pg_dump --format=custom --compress={ZSTD} --schema-only --file=/dev/null --no-password"
    probe += f" --exclude-schema='*' --username={wanted.user} --dbname={wanted.name}"
    words = ["sh", "-c", f"pg_dump --version; {probe}"]
    done = docker.execute(server, words, limit=command.QUICK_SECONDS)
    found = re.search(r"(\d+[.\w]*)", done.out)
    return Client(found[1] if found else "", GZIP if done.code else ZSTD)


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
