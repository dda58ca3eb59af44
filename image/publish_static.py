"""Copy the image's static files to the volume that nginx serves: publish_static.py FROM TO.

Files of earlier releases stay, since pages that they rendered still ask for them. Each file is replaced in one step,
and the manifest, by which the app finds all others, comes last.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

MANIFEST = "staticfiles.json"


def publish(source: Path, target: Path) -> int:
    """Copy what differs; returns how many files that were."""
    files = sorted((path for path in source.rglob("*") if path.is_file()), key=lambda path: path.name == MANIFEST)
    copied = 0
    for path in files:
        wanted = target / path.relative_to(source)
        if wanted.is_file() and wanted.read_bytes() == path.read_bytes():
            continue
        wanted.parent.mkdir(parents=True, exist_ok=True)
        temporary = wanted.with_name(f".{wanted.name}.new")
        shutil.copyfile(path, temporary)
        temporary.replace(wanted)
        copied += 1
    return copied


if __name__ == "__main__":
    print(publish(Path(sys.argv[1]), Path(sys.argv[2])))
