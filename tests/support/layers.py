"""Search the layers of an image, down to what a later layer hides."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Sequence
from typing import IO

# Read in pieces that overlap by more than any pattern is long.
PIECE_BYTES = 1 << 22
OVERLAP_BYTES = 4096


def holding(ref: str, patterns: Sequence[bytes]) -> list[str]:
    """Find files in any layer, and values of the configuration, that hold a pattern.

    Args:
        ref: the image.
        patterns: what to look for, each shorter than 4 KiB.

    Returns:
        ``<layer>: <path>`` of each; ``configuration`` for the image's own.
    """
    found = []
    with subprocess.Popen(["docker", "save", ref], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        with tarfile.open(fileobj=saving.stdout, mode="r|") as image:
            for entry in image:
                content = image.extractfile(entry)
                if content is None:
                    continue
                # Older engines name layers layer.tar, newer ones by their hash; the rest is told by `inspect` too.
                if entry.name.endswith(".tar") or (entry.name.startswith("blobs/") and entry.size > PIECE_BYTES):
                    with tarfile.open(fileobj=content, mode="r|*") as layer:
                        for file in layer:
                            data = layer.extractfile(file) if file.isfile() else None
                            if data is not None and _holds(data, patterns):
                                found.append(f"{entry.name[:12]}: {file.name}")
    history = subprocess.run(["docker", "history", "--no-trunc", ref], capture_output=True, check=True).stdout
    inspected = json.dumps(json.loads(subprocess.check_output(["docker", "image", "inspect", ref]))).encode()
    if any(pattern in history + inspected for pattern in patterns):
        found.append("configuration")
    return found


def _holds(data: IO[bytes], patterns: Sequence[bytes]) -> bool:
    rest = b""
    while piece := data.read(PIECE_BYTES):
        text = rest + piece
        if any(pattern in text for pattern in patterns):
            return True
        rest = text[-OVERLAP_BYTES:]
    return False
