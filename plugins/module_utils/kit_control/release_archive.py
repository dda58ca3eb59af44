"""A rendered bundle as the archive that a host receives: `bundle/`, and `host/` for what lies beside the releases."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from kit_engine.bundle import BUNDLE, HOST, content_hash
from kit_engine.synced_source import FOLDER as SOURCE

Entry = tuple[bytes, int]
# What a release consists of; other files of the folder (a local deploy root, reports) are no part of it.
_PATTERNS = ("docker-compose.*.yml", ".env.*", "stack.json", "secrets/*", "nginx/**/*")


def bundle_files(folder: Path, source: dict[str, Entry] | None) -> dict[str, Entry]:
    """Read a bundle.

    Args:
        folder: where it was rendered.
        source: the project's files, where the host mounts them over the image.

    Returns:
        Content and mode by path inside the bundle.
    """
    paths = [path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()]
    files = {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mode & 0o777) for path in paths}
    files.update({f"{SOURCE}/{name}": entry for name, entry in (source or {}).items()})
    return files


def configuration(files: dict[str, Entry]) -> str:
    """Hash a bundle as the engine does."""
    return content_hash((name, bool(mode & 0o100), content) for name, (content, mode) in files.items())


def pack(files: dict[str, Entry], beside: dict[str, Entry]) -> bytes:
    """Pack a release.

    Args:
        files: the bundle.
        beside: what lies beside the releases, by path below the deploy root.

    Returns:
        A tar archive.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for folder, entries in ((BUNDLE, files), (HOST, beside)):
            for name, (content, mode) in sorted(entries.items()):
                info = tarfile.TarInfo(f"{folder}/{name}")
                info.size, info.mode = len(content), mode
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
