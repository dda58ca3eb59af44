"""Copy the image's static files to the volume that nginx serves: publish_static.py FROM TO [RELEASE KEPT...].

Files of earlier releases stay, since pages that they rendered still ask for them. Each file is replaced in one step,
and the manifest, by which the app finds all others, comes last.

Where the release is named, a list of its files is left beside them, and what only releases published goes that are
neither this one nor KEPT. Prints how many files were copied, and then why that could not be done.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

MANIFEST = "staticfiles.json"
# One list for each release. The folder is for the app's user alone: nginx, which is another one, does not serve it.
LISTS = ".kit"


def publish(source: Path, target: Path) -> int:
    """Copy what differs; returns how many files that were."""
    copied = 0
    for path in sorted(_files(source), key=lambda path: path.name == MANIFEST):
        wanted = target / path.relative_to(source)
        if wanted.is_file() and wanted.read_bytes() == path.read_bytes():
            continue
        wanted.parent.mkdir(parents=True, exist_ok=True)
        temporary = wanted.with_name(f".{wanted.name}.new")
        shutil.copyfile(path, temporary)
        temporary.replace(wanted)
        copied += 1
    return copied


def tidy(source: Path, target: Path, release: str, kept: Sequence[str]) -> int:
    """List what a release published, and remove what nobody needs any more; returns how many files that were.

    What no list names was not published from an image, and stays. So does everything while a release is kept that has
    no list. A list goes after all that only it names, so that the next run goes on where one was killed.
    """
    folder = target / LISTS
    folder.mkdir(mode=0o700, exist_ok=True)
    _write(folder / release, json.dumps([path.relative_to(source).as_posix() for path in _files(source)]))
    lists = {path.name: set(json.loads(path.read_text())) for path in folder.glob("[!.]*")}
    needed = {release, *kept}
    if not needed <= lists.keys():
        return 0
    left = lists.keys() - needed
    removed = 0
    for name in _all_of(lists, left) - _all_of(lists, needed):
        (target / name).unlink(missing_ok=True)
        removed += 1
    for name in left:
        (folder / name).unlink()
    return removed


def _all_of(lists: dict[str, set[str]], names: set[str]) -> set[str]:
    return set().union(*(lists[name] for name in names))


def _files(source: Path) -> list[Path]:
    return sorted(path for path in source.rglob("*") if path.is_file())


def _write(path: Path, text: str) -> None:
    """Replace a file in one step, on the disk before it counts: a list that was cut short would keep all others."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


if __name__ == "__main__":
    FROM, TO = Path(sys.argv[1]), Path(sys.argv[2])
    print(publish(FROM, TO))
    if sys.argv[3:]:
        try:
            tidy(FROM, TO, sys.argv[3], sys.argv[4:])
        except (OSError, ValueError) as error:
            print(error)
