"""Take images that a control node sends in pieces, without any registry; the counterpart of kit_control.image_transfer.

A layer comes as pieces of its plain tar, each compressed by itself. They are staged under
``<deploy_root>/incoming/layers`` until an image's layers are all there, so that a transfer that was cut goes on where
it stood.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from kit_engine import command, deadline, disk, image_archive, lock
from kit_engine.docker import image_id
from kit_engine.errors import EngineError
from kit_engine.image_archive import SHA256
from kit_engine.report import Report

STAGED = Path("incoming/layers")
# Measured: 1 s for each 100 MB on 2 cores; a slow disk may take thirty times that.
LOAD_SECONDS = 600.0
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Image:
    """An image on its way.

    Attributes:
        ref: name and tag that it gets here.
        config: its configuration, as text; its digest is the image's identity.
        layers: diff ids, the lowest first.
    """

    ref: str
    config: str
    layers: tuple[str, ...]

    @property
    def identity(self) -> str:
        """The digest of the configuration."""
        return SHA256 + hashlib.sha256(self.config.encode()).hexdigest()


@dataclass(frozen=True)
class Layer:
    """How large a layer's plain tar is, and in how many pieces it comes."""

    size: int
    pieces: int


@dataclass(frozen=True)
class Piece:
    """One piece of what follows the header: its layer and number, its bytes, and their SHA-256 in hexadecimal."""

    layer: str
    number: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Header:
    """What one call brings.

    Attributes:
        images: all that are lacking, in the order in which they shall be loaded.
        layers: by diff id, those that were lacking at the beginning.
        pieces: those that follow.
        free_bytes: what the disks must have free; 0 asks nothing.
    """

    images: tuple[Image, ...]
    layers: Mapping[str, Layer]
    pieces: tuple[Piece, ...] = ()
    free_bytes: int = 0

    @classmethod
    def read(cls, line: bytes) -> Header:
        """Read the first line of a call's standard input."""
        told = json.loads(line)
        return cls(
            tuple(Image(one["ref"], one["config"], tuple(one["layers"])) for one in told["images"]),
            {name: Layer(**one) for name, one in told["layers"].items()},
            tuple(Piece(**one) for one in told["pieces"]),
            int(told["free_bytes"]),
        )


@dataclass
class Standing:
    """What of some images is here.

    Attributes:
        images: id by reference; empty where the image is lacking.
        chains: chain ids of all images of this engine; not listed where nothing is lacking.
        staged: numbers of the staged pieces by diff id.
        refused: diff ids of layers that came damaged, to be sent again as far as they are not staged.
        loaded: references of the images that this call brought.
    """

    images: dict[str, str]
    chains: list[str] = field(default_factory=list)
    staged: dict[str, list[int]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)


def standing(root: Path, refs: Sequence[str]) -> Standing:
    """Tell which images are here and, where one is lacking, what of it is.

    Args:
        root: the deploy root.
        refs: references that carry a hash of their content, so that one that is here is the right one.
    """
    told = Standing(_present(refs))
    if not all(told.images.values()):
        told.chains = sorted(_chains())
        told.staged = _staged(root / STAGED)
    return told


def take(root: Path, header: Header, body: bytes, report: Report) -> Standing:
    """Stage the pieces that came, and load each image that is whole.

    Args:
        root: the deploy root.
        header: what this call brings.
        body: the pieces, one behind the other.
        report: takes progress lines.

    Returns:
        What is here now.

    Raises:
        EngineError: a disk has no room, or the engine refused; images that were here before are as they were.
    """
    folder = root / STAGED
    # What is in there is half of something, and for nobody else to read.
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder.parent / ".lock").open("w") as file:
        # A control node that was cut off leaves a call behind, which may still be at work.
        fcntl.flock(file, fcntl.LOCK_EX)
        folder.mkdir(exist_ok=True, mode=0o700)
        if header.free_bytes:
            disk.demand(root, header.free_bytes)
        # A call that was cut brings half a piece: it is not kept, and what came before is.
        refused = _stage(folder, header, body)
        loaded = [] if refused else _load_whole(folder, header, report, refused)
        told = standing(root, [image.ref for image in header.images])
        if all(told.images.values()):
            shutil.rmtree(folder, ignore_errors=True)
    told.refused, told.loaded = refused, loaded
    return told


def _load_whole(folder: Path, header: Header, report: Report, refused: list[str]) -> list[str]:
    """Load images in their order until one is not whole; damaged layers go, and are added to the refused ones."""
    loaded = []
    for image in header.images:
        if image_id(image.ref):
            continue
        lacking = image_archive.lacking(image.layers, _chains())
        if not all(_whole(folder, layer, header.layers) for layer in lacking):
            break
        refused += [layer for layer in lacking if not _sound(folder, layer)]
        for layer in refused:
            shutil.rmtree(_place(folder, layer), ignore_errors=True)
        if refused:
            break
        report.say(f"loading {image.ref} …")
        _load(folder, image, lacking, header.layers)
        loaded.append(image.ref)
    return loaded


def _present(refs: Sequence[str]) -> dict[str, str]:
    if not refs:
        return {}
    return {ref: image_id(ref) for ref in refs}


def _chains() -> set[str]:
    remedy = "docker info    (does the engine answer?)"
    words = ["docker", "image", "ls", "--all", "--quiet", "--no-trunc"]
    ids = sorted(set(command.demand(words, code="images", remedy=remedy).out.split()))
    if not ids:
        return set()
    # One of them may be gone in between: what is left is printed all the same.
    told = command.run(["docker", "image", "inspect", "--format", "{{json .RootFS.Layers}}", *ids]).out
    return {chain for line in told.splitlines() if line for chain in image_archive.chain_ids(json.loads(line) or [])}


def _staged(folder: Path) -> dict[str, list[int]]:
    if not folder.is_dir():
        return {}
    return {
        SHA256 + layer.name: sorted(int(piece.stem) for piece in layer.glob("*.z"))
        for layer in sorted(folder.iterdir())
        if layer.is_dir()
    }


def _place(folder: Path, layer: str) -> Path:
    name = layer[len(SHA256) :]
    if not layer.startswith(SHA256) or len(name) != 64 or not name.isalnum():
        raise EngineError("images", f"{layer!r} names no layer.", "repeat the command")
    return folder / name


def _stage(folder: Path, header: Header, body: bytes) -> list[str]:
    """Write each piece under its name at once or not at all; gives the layers of those that came damaged."""
    refused = []
    begin = 0
    for piece in header.pieces:
        content = body[begin : begin + piece.size]
        begin += piece.size
        if hashlib.sha256(content).hexdigest() != piece.sha256:
            refused.append(piece.layer)
            continue
        place = _place(folder, piece.layer)
        place.mkdir(exist_ok=True, mode=0o700)
        new = place / f"{piece.number:04d}.new"
        new.write_bytes(content)
        new.replace(new.with_suffix(".z"))
    return sorted(set(refused))


def _whole(folder: Path, layer: str, layers: Mapping[str, Layer]) -> bool:
    place = _place(folder, layer)
    return layer in layers and all((place / f"{number:04d}.z").is_file() for number in range(layers[layer].pieces))


def _plain(folder: Path, layer: str) -> Iterator[bytes]:
    for path in sorted(_place(folder, layer).glob("*.z")):
        yield zlib.decompress(path.read_bytes())


def _sound(folder: Path, layer: str) -> bool:
    digest = hashlib.sha256()
    try:
        for chunk in _plain(folder, layer):
            digest.update(chunk)
    except zlib.error:
        return False
    return SHA256 + digest.hexdigest() == layer


def _load(folder: Path, image: Image, lacking: Sequence[str], layers: Mapping[str, Layer]) -> None:
    """Hand an image to the engine, as it is read; no second copy of it is made here."""
    parts = [(layer, layers[layer].size, _file(_plain(folder, layer))) for layer in lacking]
    with tempfile.TemporaryDirectory(prefix=".kept-", dir=folder.parent) as kept:
        if _wants_every_layer():
            # Such an engine takes an image whole or not at all: the rest comes out of its own images.
            rest = [layer for layer in dict.fromkeys(image.layers) if layer not in lacking]
            parts += _own_layers(rest, Path(kept))
        code, said = _piped(
            ["docker", "load"],
            lambda stream: image_archive.write(stream, image.ref, image.config.encode(), image.layers, parts),
        )
    there = image_id(image.ref)
    whole = there == image.identity or (_wants_every_layer() and is_made_of(image.ref, image.layers))
    if code or not whole:
        # containerd's store names an image before its layers are unpacked: half of one would count as there.
        command.run(["docker", "image", "rm", image.ref])
        raise EngineError(
            "images",
            f"`docker load` did not bring {image.ref} as it was sent ({image.identity}):\n{command.tail(said)}",
            "docker system df    (is there space?), then repeat the command; what has arrived is kept",
        )


def is_made_of(ref: str, layers: Sequence[str]) -> bool:
    """Compare an image that is here with the layers that it should have; ids differ between image stores.

    Args:
        ref: its reference.
        layers: diff ids, the lowest first.
    """
    done = command.run(["docker", "image", "inspect", "--format", "{{json .RootFS.Layers}}", ref])
    return done.code == 0 and tuple(json.loads(done.out)) == tuple(layers)


def _file(chunks: Iterator[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", io.BufferedReader(image_archive.Chunks(chunks), _READ_BYTES))


def _wants_every_layer() -> bool:
    """Whether images lie in containerd's store, where a load must bring every layer."""
    return "io.containerd.snapshotter" in json.dumps(disk.engine_info().get("DriverStatus"))


def _own_layers(wanted: Collection[str], scratch: Path) -> list[tuple[str, int, IO[bytes]]]:
    """Take layers out of images that are here."""
    found: dict[str, tuple[str, int, IO[bytes]]] = {}
    listed = command.run(["docker", "image", "ls", "--quiet", "--no-trunc"]).out.split()

    def keep(layer: str, content: IO[bytes]) -> None:
        path = scratch / layer[len(SHA256) :]
        with path.open("wb") as file:
            shutil.copyfileobj(content, file, _READ_BYTES)
        found[layer] = (layer, path.stat().st_size, path.open("rb"))

    for one in dict.fromkeys(listed):
        told = command.run(["docker", "image", "inspect", "--format", "{{json .RootFS.Layers}}", one])
        here = [layer for layer in wanted if layer not in found and layer in told.out]
        if told.code == 0 and here:
            with subprocess.Popen(  # noqa: S603
                ["docker", "save", one],  # noqa: S607
                stdout=subprocess.PIPE,
                pass_fds=lock.inherited(),
            ) as saving:
                image_archive.read(cast("IO[bytes]", saving.stdout), here, keep, scratch)
    return list(found.values())


def _piped(argv: Sequence[str], write: Callable[[IO[bytes]], None]) -> tuple[int, str]:
    """Run a program on what is written to its standard input; gives its exit code and what it said."""
    with (
        subprocess.Popen(  # noqa: S603 - an argument list of our own, no shell
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=lock.inherited(),
        ) as program,
        deadline.after(LOAD_SECONDS, program.kill),
    ):
        stream = cast("IO[bytes]", program.stdin)
        # One that ends before its input does says why.
        with suppress(BrokenPipeError):
            write(stream)
        with suppress(BrokenPipeError):
            stream.close()
        said = cast("IO[bytes]", program.stdout).read().decode(errors="replace")
        code = program.wait()
    return code, said


def result(told: Standing) -> dict[str, Any]:
    """Give it as part of the JSON result."""
    return {
        "images": told.images, "chains": told.chains, "staged": told.staged,
        "refused": told.refused, "loaded": told.loaded, "changed": bool(told.loaded),
    }  # fmt: skip
