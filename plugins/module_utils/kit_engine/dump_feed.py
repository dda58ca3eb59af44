"""The dump of a backup on its way into a program, wherever it lies: on this host, or off-site only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Optional

from kit_engine import pipes, restic, streams
from kit_engine.docker import Docker
from kit_engine.errors import EngineError

# Of a manifest: restic's id of the snapshot that holds the dump; empty or lacking where it lies beside the manifest.
SNAPSHOT = "dump_snapshot"
# In PostgreSQL's custom format, by one process; in its directory format, by several.
FILE, FOLDER = "database.dump", "database"
# The table of contents is the first of a dump, some hundred bytes for each table, index and the like.
HEAD_BYTES = 32 * streams.MIB


@dataclass(frozen=True)
class Fed:
    """How that ended.

    Attributes:
        code: exit code of the program; 0 where there was none.
        said: what it complained of.
        damaged: whether all of the dump was read, and was not what was written.
    """

    code: int
    said: str
    damaged: bool
    _head: Optional[bytes]
    _path: Path

    @contextmanager
    def contents(self) -> Iterator[IO[bytes]]:
        """Open the dump again, as far as its table of contents goes."""
        if self._head is None:
            with self._path.open("rb") as file:
                yield file
            return
        with TemporaryFile() as file:
            file.write(self._head)
            file.seek(0)
            yield file


def into(
    docker: Docker, words: Sequence[str], path: Path, told: Mapping[str, Any], progress: streams.Progress,
    look: Callable[[], None] = lambda: None,
) -> Fed:  # fmt: skip
    """Have a program read the dump of a backup.

    Args:
        docker: the stack's containers.
        words: the program; none: it is only read, and compared with what was written.
        path: of the dump where it lies on this host.
        told: the backup's manifest.
        progress: told the bytes.
        look: called about once a second meanwhile; what it raises ends the program.

    Returns:
        How the program ended.

    Raises:
        EngineError: it did not end in time, or the dump cannot be read off-site.
    """
    limit = docker.stack.backup.timeout_seconds
    snapshot = str(told.get(SNAPSHOT) or "")
    if not snapshot:
        with path.open("rb") as file:
            code, said = streams.moved(words, limit=limit, progress=progress, stdin=file, look=look)
        return Fed(code, said, damaged=False, _head=None, _path=path)
    reader = pipes.Program(words) if words else None
    with opened(docker) as place:
        ended = pipes.joined(
            place.program("dump", "--no-lock", snapshot, f"/{path.name}"), reader,
            limit=limit, progress=progress, look=look, head=HEAD_BYTES,
        )  # fmt: skip
        if ended.wrong == 1:
            raise place.failure("dump", ended.said[0])
    wanted = told["files"][path.name]
    damaged = not ended.wrong and (ended.size, ended.sha256) != (wanted["bytes"], wanted["sha256"])
    return Fed(ended.codes[1], ended.said[1], damaged, ended.head, path)


def name_of(told: Mapping[str, Any]) -> str:
    """Tell from a backup's manifest what its dump is called: :data:`FILE`, or :data:`FOLDER`."""
    return FOLDER if any(name.startswith(f"{FOLDER}/") for name in told.get("files") or ()) else FILE


@contextmanager
def opened(docker: Docker) -> Iterator[restic.Place]:
    """Open the place for a backup that lies there only.

    Args:
        docker: the stack's containers.

    Raises:
        EngineError: none is configured, or it cannot be opened.
    """
    stack = docker.stack
    if not stack.backup.offsite_repository:
        problem = "This backup lies off-site only, and this release knows no place there (backup_offsite_repository)."
        raise EngineError("offsite", problem, f"set it in inventories/{stack.env}, then: {stack.make('deploy')}")
    with restic.opened(stack) as place:
        yield place
