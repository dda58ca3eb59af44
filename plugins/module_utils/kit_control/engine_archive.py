"""The engine as one file: a zipapp of kit_engine that is the same, byte for byte, for the same sources."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "kit_engine"
# Found on PATH, so that the file also starts by itself; hosts call it through their own python3 anyway.
SHEBANG = b"#!/usr/bin/env python3\n"
# From an archive Python compiles all anew at each start. So where the same files lie beside it, in a folder named by
# the hash of the archive, they are taken from there.
MAIN = """\
import hashlib
import sys
from pathlib import Path

archive = Path(sys.path[0])
beside = archive.parent / f".engine-{hashlib.sha256(archive.read_bytes()).hexdigest()}"
if beside.is_dir():
    sys.path.insert(0, str(beside))

from kit_engine.cli import main

sys.exit(main(sys.argv[1:]))
"""
# The oldest time a zip file can hold: the sources' own times differ from clone to clone.
TIME = (1980, 1, 1, 0, 0, 0)
MODE = 0o755


def build(package: Path = PACKAGE) -> bytes:
    """Pack the engine.

    Args:
        package: the folder of kit_engine.

    Returns:
        The archive's bytes; they depend on names and contents of its files alone.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        _add(archive, "__main__.py", MAIN.encode())
        for path in sorted(found for found in package.rglob("*") if found.is_file() and found.suffix != ".pyc"):
            _add(archive, f"{package.name}/{path.relative_to(package).as_posix()}", path.read_bytes())
    return SHEBANG + buffer.getvalue()


def write(target: Path) -> bool:
    """Bring the archive to a place.

    Args:
        target: such as ``<deploy_root>/bin/engine.pyz``; folders are made.

    Returns:
        Whether it differs from what was there.
    """
    content = build()
    if target.is_file() and target.read_bytes() == content:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.new")
    temporary.write_bytes(content)
    temporary.chmod(MODE)
    temporary.replace(target)
    return True


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, TIME)
    entry.external_attr = 0o644 << 16
    # Stored: what zlib makes of the same text differs between its versions, and 50 KB need no compression.
    entry.compress_type = zipfile.ZIP_STORED
    archive.writestr(entry, content)
