"""The source that dev mounts over the image's folder: brought from the release to shared/source, file by file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from kit_engine.stack import Stack

FOLDER = "source"
# The app reads its release's id here: a new value in the environment would make the containers anew.
RELEASE_FILE = ".kit-release"


def sync(stack: Stack) -> bool:
    """Bring shared/source to hold exactly the release's source.

    The folder itself stays, since containers mount it; each file is replaced in one step.

    Args:
        stack: whose release.

    Returns:
        Whether a file differed.
    """
    source = stack.bundle / FOLDER
    if not source.is_dir():
        return False
    target = stack.root / "shared" / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    wanted = {path.relative_to(source): path for path in source.rglob("*") if path.is_file()}
    changed = [name for name, path in wanted.items() if _differs(path, target / name)]
    for name in changed:
        _place(wanted[name], target / name)
    gone = [
        path
        for path in target.rglob("*")
        if (path.is_file() or path.is_symlink()) and path.relative_to(target) not in (*wanted, Path(RELEASE_FILE))
    ]
    for path in gone:
        path.unlink()
    _drop_empty(target)
    marker = target / RELEASE_FILE
    if not marker.is_file() or marker.read_text(encoding="utf-8") != stack.release:
        marker.write_text(stack.release, encoding="utf-8")
    return bool(changed or gone)


def _differs(path: Path, target: Path) -> bool:
    if not target.is_file() or target.is_symlink():
        return True
    found, wanted = target.stat(), path.stat()
    return (
        found.st_size != wanted.st_size or found.st_mode != wanted.st_mode or target.read_bytes() != path.read_bytes()
    )


def _place(path: Path, target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    for parent in reversed(target.parents):
        if parent.is_file():
            parent.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.kit-new")
    new.unlink(missing_ok=True)
    shutil.copyfile(path, new)
    new.chmod(path.stat().st_mode & 0o777)
    new.replace(target)


def _drop_empty(folder: Path) -> None:
    for path, _, _ in os.walk(folder, topdown=False):
        if Path(path) != folder and not any(Path(path).iterdir()):
            Path(path).rmdir()
