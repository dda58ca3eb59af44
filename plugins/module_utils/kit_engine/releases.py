"""Releases on this host: each received whole into a folder of its own, one of them current, each with a record."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO, Optional

from kit_engine import __version__, bundle
from kit_engine.errors import EngineError
from kit_engine.stack import CURRENT

FOLDER, RECORDS = "releases", "records"
SCHEMA = 1
STATES = ("running", "live", "good", "failed", "rolled_back", "abandoned")
# What each type that Record names asks of a JSON value, and of those inside it.
_KINDS: Mapping[str, tuple[type, Optional[tuple[type, ...]]]] = {
    "str": (str, None),
    "bool": (bool, None),
    "int": (int, None),
    "list[str]": (list, (str,)),
    "dict[str, float]": (dict, (int, float)),
    "dict[str, Any]": (dict, None),
}


@dataclass
class Record:
    """What is known of a release.

    Attributes:
        id: ``YYYYMMDDTHHMMSSZ-<short git sha>``.
        ref: what was asked for, such as ``HEAD`` or a tag; ``sha`` is what it stood for.
        dirty: whether the working tree held more than that commit.
        image: reference of the app's image; ``image_id`` is the digest of its configuration, the same on every host.
        configuration: hash of the bundle's content.
        who: user and control node that deployed.
        started: UTC in ISO 8601; ``finished`` is empty while it runs.
        seconds: by step.
        migrations: those that it applied.
        backup: of the database, made before them: its ``id``, ``bytes`` and ``level`` of verification.
        gaps: seconds that a service was away, by its name.
        previous: id of the release that served before it.
        state: one of :data:`STATES`; live: it serves, and its smoke gate is still to come.
        reason: why it failed, or was left.
        warnings: what went wrong and did not matter to the release, such as a hook after it.
    """

    id: str
    env: str
    ref: str = ""
    sha: str = ""
    dirty: bool = False
    image: str = ""
    image_id: str = ""
    configuration: str = ""
    who: str = ""
    started: str = ""
    finished: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    migrations: list[str] = field(default_factory=list)
    backup: dict[str, Any] = field(default_factory=dict)
    gaps: dict[str, float] = field(default_factory=dict)
    previous: str = ""
    state: str = "running"
    reason: str = ""
    warnings: list[str] = field(default_factory=list)
    engine: str = __version__
    schema: int = SCHEMA


def receive(root: Path, wanted: str, configuration: str, stream: BinaryIO) -> str:
    """Take a release from a control node.

    Args:
        root: the deploy root; made where absent.
        wanted: id that the release shall have; a taken one gets ``-2`` and so on.
        configuration: hash that the content must have.
        stream: the archive, with the folders ``bundle`` and ``host``.

    Returns:
        The id it got.

    Raises:
        EngineError: it did not arrive whole; nothing but a temporary folder was written, and that is gone.
    """
    folder = root / FOLDER
    _make(root, 0o755)
    # A release holds secrets, and its users are root and containers only.
    _make(folder, 0o700)
    incoming = Path(tempfile.mkdtemp(prefix=".incoming-", dir=folder))
    try:
        bundle.unpack(stream, incoming)
        if bundle.hash_of(incoming / bundle.BUNDLE) != configuration:
            raise EngineError("bundle", "The release did not arrive whole: its hash is another.", "repeat the command")
        _host_files(incoming / bundle.HOST, root)
        given = _reserve(folder, wanted)
        (incoming / bundle.BUNDLE).rename(folder / given)
        sync_folder(folder)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return given


def current(root: Path) -> str:
    """Give the id of the release that serves; empty where there is none."""
    link = root / CURRENT
    return link.resolve().name if link.is_symlink() and link.exists() else ""


def switch(root: Path, release: str) -> None:
    """Make a release the current one, in one step."""
    link = root / CURRENT
    new = root / f".{CURRENT}.new"
    new.unlink(missing_ok=True)
    new.symlink_to(Path(FOLDER, release))
    new.replace(link)
    sync_folder(root)


def write(root: Path, record: Record) -> None:
    """Replace a release's record atomically.

    Raises:
        ValueError: it is none; a mistake of ours.
    """
    folder = root / RECORDS
    told = asdict(record)
    _record(told)
    _make(folder, 0o755)
    # Plain ASCII: a reason may name a file, and a file's name need not be text.
    replace(folder / f"{record.id}.json", json.dumps(told, indent=2) + "\n")


def replace(path: Path, text: str) -> None:
    """Replace a file in one step, on the disk before it counts."""
    new = path.with_name(f".{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_folder(path.parent)


def read(root: Path, release: str) -> Optional[Record]:
    """Read a release's record; None where there is none, or what is there is not one."""
    try:
        return load(root / RECORDS / f"{release}.json")
    except (OSError, ValueError):
        return None


def load(path: Path) -> Record:
    """Read a record.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it holds something else; says what.
    """
    record = _record(json.loads(path.read_text(encoding="utf-8")))
    if record.id != path.stem:
        raise ValueError(f"id is {record.id}")
    return record


def _record(told: object) -> Record:
    """Check what a record holds, key by key; raises ValueError."""
    if not isinstance(told, dict):
        raise ValueError("not an object")
    known = {one.name: str(one.type) for one in fields(Record)}
    if told.get("schema") != SCHEMA:
        raise ValueError(f"schema is {told.get('schema')!r}, not {SCHEMA}")
    for name, value in told.items():
        if name not in known:
            raise ValueError(f"{name!r} is not known")
        kind, inside = _KINDS[known[name]]
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        # In Python a bool is an int, and in JSON not.
        if type(value) is not kind or (inside and not all(type(part) in inside for part in parts)):
            raise ValueError(f"{name!r} is {value!r}, not {known[name]}")
    if not told.get("id") or told.get("state") not in STATES:
        raise ValueError(f"id is {told.get('id')!r}, state {told.get('state')!r}")
    return Record(**told)


def now() -> str:
    """This moment in UTC, as records write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _reserve(folder: Path, wanted: str) -> str:
    for number in range(1, 1000):
        given = wanted if number == 1 else f"{wanted}-{number}"
        try:
            (folder / given).mkdir()
        except FileExistsError:
            continue
        return given
    raise EngineError("bundle", f"There are a thousand releases named {wanted}.", f"ls {folder}")


def _host_files(folder: Path, root: Path) -> None:
    """Bring what lies beside the releases: docker-manage.sh, the record of base images."""
    for path in sorted(found for found in folder.rglob("*") if found.is_file()):
        target = root / path.relative_to(folder)
        if target.is_file() and target.read_bytes() == path.read_bytes():
            continue
        _make(target.parent, 0o755)
        new = target.with_name(f".{target.name}.new")
        shutil.copyfile(path, new)
        new.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
        new.replace(target)


def _make(folder: Path, mode: int) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True)
        folder.chmod(mode)


def sync_folder(folder: Path) -> None:
    """Have a folder's own entries on the disk, such as a name that was just replaced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
