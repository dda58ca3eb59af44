"""Layers straight out of the folders of this machine's engine, where we may read them.

`docker save` writes a whole image to disk before it gives its first byte: 3 s for 260 MB on 2 cores, to send a layer of
some kilobytes. A classic image store keeps each layer as files and a list of what was between them (tar-split.json.gz,
the format of github.com/vbatts/tar-split). All of that is the engine's own affair: whoever reads compares the digest,
and have `docker save` for whatever is not found here.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit_engine.image_archive import SHA256

_QUICK_SECONDS = 30.0
_READ_BYTES = 1 << 20
_SEGMENT, _FILE = 2, 1


@dataclass(frozen=True)
class Store:
    """A classic image store.

    Attributes:
        images: folder of images and layers, such as ``/var/lib/docker/image/overlay2``.
        files: folder of the layers' files, such as ``/var/lib/docker/overlay2``.
    """

    images: Path
    files: Path

    def config(self, image_id: str) -> bytes | None:
        """Give an image's configuration; None where it is not found."""
        try:
            return (self.images / "imagedb/content/sha256" / image_id.removeprefix(SHA256)).read_bytes()
        except OSError:
            return None

    def layer(self, chain: str) -> Iterator[bytes]:
        """Put a layer's plain tar together.

        Args:
            chain: its chain id.

        Yields:
            Parts of the tar.

        Raises:
            OSError: something of it is not found.
            ValueError: it is written in another way than is known here.
        """
        about = self.images / "layerdb/sha256" / chain.removeprefix(SHA256)
        diff = self.files / (about / "cache-id").read_text(encoding="ascii").strip() / "diff"
        with gzip.open(about / "tar-split.json.gz", "rt", encoding="utf-8") as entries:
            for line in entries:
                entry: dict[str, Any] = json.loads(line)
                if entry["type"] == _SEGMENT:
                    yield base64.b64decode(entry["payload"])
                elif entry["type"] == _FILE and entry.get("size"):
                    yield from _content(diff / _name(entry))


def _name(entry: dict[str, Any]) -> str:
    # Names that are no UTF-8 stand apart.
    raw = entry.get("name_raw")
    return os.fsdecode(base64.b64decode(raw)) if raw else str(entry["name"])


def _content(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            yield piece


def find(sudo: Sequence[str]) -> Store | None:
    """Find this machine's store; None where it is another kind, on another machine, or not for us to read.

    Args:
        sudo: words before `docker`; with any, its folders are not for us to read.
    """
    if sudo or os.geteuid() != 0:
        return None
    words = ["docker", "info", "--format", "{{.Driver}} {{.DockerRootDir}}"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_QUICK_SECONDS, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    driver, _, root = done.stdout.strip().partition(" ")
    store = Store(Path(root, "image", driver), Path(root, driver))
    return store if driver == "overlay2" and store.images.is_dir() else None
