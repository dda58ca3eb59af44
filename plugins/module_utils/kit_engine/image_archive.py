"""What `docker save` writes and `docker load` reads: both layouts, layer by layer, and never a whole image in memory.

Older engines write ``<id>/layer.tar`` beside ``<config>.json``; newer ones ``blobs/sha256/<digest>``, and where the
engine keeps layers compressed they are so in there too. A layer is known by its diff id, the digest of its plain tar.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from kit_engine.errors import EngineError

BLOBS = "blobs/sha256/"
SHA256 = "sha256:"
_READ_BYTES = 1 << 20
# The largest document that is looked for; an image's configuration is some kilobytes.
_DOCUMENT_BYTES = 1 << 20
# What stays in memory while it is hashed; a one-line change's layers do.
_IN_MEMORY_BYTES = 32 << 20
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"

Keep = Callable[[str, IO[bytes]], None]


def chain_ids(layers: Iterable[str]) -> list[str]:
    """Name each layer together with all below it, as the OCI image specification does.

    Args:
        layers: diff ids, the lowest first.

    Returns:
        The chain id up to each of them.
    """
    chain: list[str] = []
    for layer in layers:
        below = chain[-1] if chain else ""
        chain.append(SHA256 + hashlib.sha256(f"{below} {layer}".encode()).hexdigest() if below else layer)
    return chain


def lacking(layers: Sequence[str], chains: Collection[str]) -> list[str]:
    """List the layers of an image that an engine lacks.

    Args:
        layers: diff ids, the lowest first.
        chains: chain ids that are there.

    Returns:
        The diff ids from the first that is not there upwards, each once.
    """
    there = sum(1 for chain in chain_ids(layers) if chain in chains)
    return list(dict.fromkeys(layers[there:]))


def read(stream: IO[bytes], wanted: Collection[str], keep: Keep, scratch: Path) -> bytes:
    """Read one saved image once, as it comes.

    Args:
        stream: what `docker save` of a single image writes.
        wanted: diff ids of the layers that are wanted.
        keep: takes each wanted layer: its diff id and its plain tar, at its start.
        scratch: folder for what does not fit into memory.

    Returns:
        The image's configuration, as it was saved.

    Raises:
        EngineError: it ends early, holds something else than one image, or a layer in a format that is not known.
    """
    documents: dict[str, bytes] = {}
    found: set[str] = set()
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_READ_BYTES) as archive:
            for entry in archive:
                content = cast("BinaryIO", archive.extractfile(entry)) if entry.isfile() else None
                if content is None:
                    continue
                start = content.read(_DOCUMENT_BYTES)
                if entry.size <= _DOCUMENT_BYTES and start[:1] in (b"{", b"[") and not entry.name.endswith(".tar"):
                    documents[entry.name] = start
                elif _may_be_wanted(entry.name, start, wanted, found):
                    layer = _take(start, content, wanted, keep, scratch)
                    found.add(layer)
        manifest: list[dict[str, Any]] = json.loads(documents["manifest.json"])
        config = documents[str(manifest[0]["Config"])]
    except (tarfile.TarError, EOFError, ValueError, KeyError, IndexError) as error:
        raise EngineError(
            "images",
            f"`docker save` did not give one whole image: {error!r}.",
            "docker info    (does the engine answer?)",
        ) from None
    missing = set(wanted) - found
    if missing:
        raise EngineError(
            "images", f"`docker save` gave no layer {sorted(missing)[0]}.", "docker info    (does the engine answer?)"
        )
    return config


def _may_be_wanted(name: str, start: bytes, wanted: Collection[str], found: Collection[str]) -> bool:
    if not set(wanted) - set(found):
        return False
    if start[:4] == _ZSTD:
        raise EngineError(
            "images",
            "This engine keeps layers compressed by zstd, which cannot be read here.",
            "deliver by a registry: app_image_delivery: registry",
        )
    # A plain blob's name is its diff id already.
    return not name.startswith(BLOBS) or start[:2] == _GZIP or SHA256 + name[len(BLOBS) :] in wanted


def _take(start: bytes, rest: BinaryIO, wanted: Collection[str], keep: Keep, scratch: Path) -> str:
    """Hash a layer, and hand it over where it is wanted; which it is shows only at its end."""
    plain: IO[bytes] = cast("IO[bytes]", _Joined(start, rest))
    if start[:2] == _GZIP:
        plain = cast("IO[bytes]", gzip.GzipFile(fileobj=plain))
    digest = hashlib.sha256()
    with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, dir=str(scratch)) as spool:
        while piece := plain.read(_READ_BYTES):
            digest.update(piece)
            spool.write(piece)
        layer = SHA256 + digest.hexdigest()
        if layer in wanted:
            spool.seek(0)
            keep(layer, cast("IO[bytes]", spool))
    return layer


class _Joined(io.RawIOBase):
    """What was read already, and then the rest."""

    def __init__(self, start: bytes, rest: BinaryIO) -> None:
        self._start, self._rest = start, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = len(buffer)
        piece = self._start[:wanted] if self._start else self._rest.read(wanted)
        self._start = self._start[wanted:] if self._start else b""
        buffer[: len(piece)] = piece
        return len(piece)


class Chunks(io.RawIOBase):
    """A file made of chunks that are produced one after the other.

    Args:
        chunks: the content.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._begun = chunks, memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as the next chunk goes."""
        while not self._begun:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._begun = memoryview(chunk)
        size = min(len(buffer), len(self._begun))
        buffer[:size] = self._begun[:size]
        self._begun = self._begun[size:]
        return size


def write(
    stream: IO[bytes], ref: str, config: bytes, layers: Sequence[str], given: Iterable[tuple[str, int, IO[bytes]]]
) -> None:
    """Write an image for `docker load`.

    Args:
        stream: standard input of `docker load`.
        ref: name and tag that it gets.
        config: its configuration.
        layers: diff ids of all its layers, the lowest first.
        given: diff id, bytes and plain tar of those that are in the archive; an engine with a classic image store takes
            the others from what it has.
    """
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    paths = {layer: f"{layer[len(SHA256) :]}/layer.tar" for layer in layers}
    manifest = [{"Config": name, "RepoTags": [ref], "Layers": [paths[layer] for layer in layers]}]
    with tarfile.open(fileobj=stream, mode="w|", bufsize=_READ_BYTES) as archive:
        _add(archive, "manifest.json", json.dumps(manifest).encode())
        _add(archive, name, config)
        for layer, size, content in given:
            entry = tarfile.TarInfo(paths[layer])
            entry.size, entry.mode = size, 0o644
            archive.addfile(entry, content)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    archive.addfile(entry, io.BytesIO(content))
