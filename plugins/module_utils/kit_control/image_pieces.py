"""Layers of this machine's images as compressed pieces in a folder, made once for all hosts and runs."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from kit_engine import deadline, image_archive
from kit_engine.errors import EngineError
from kit_engine.image_archive import SHA256

from kit_control.errors import KitError
from kit_control.image_store import Store

PIECE_BYTES = 8 << 20
# A one-line change of code compresses to a quarter at any level; level 1 keeps up with a fast line on one core.
LEVEL = 1
# Reading a whole stack of images takes seconds; a busy disk may take a hundred times that.
SAVE_SECONDS = 600.0
QUICK_SECONDS = 30.0
# Kept besides the layers in use, so that going back to an older release sends what it did.
KEPT_BYTES = 1 << 30
# Another deploy on this machine may still be sending what it has made.
KEPT_SECONDS = 3600.0
_ABOUT = "about.json"


@dataclass(frozen=True)
class Local:
    """An image of this machine that a host shall have.

    Attributes:
        ref: the name and tag that it gets there.
        source: its reference here.
        id: its id here.
        layers: diff ids, the lowest first.
    """

    ref: str
    source: str
    id: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class About:
    """A layer's pieces: bytes of its plain tar, and size and SHA-256 of each piece."""

    size: int
    pieces: tuple[tuple[int, str], ...]


def look_up(ref: str, source: str, sudo: Sequence[str] = ()) -> Local:
    """Ask this machine's engine about an image.

    Args:
        ref: the name and tag that it gets on the host.
        source: its reference here.
        sudo: words before `docker`, where its socket asks for more rights.

    Raises:
        KitError: it is not here.
    """
    words = [*sudo, "docker", "image", "inspect", "--format", "{{.Id}} {{json .RootFS.Layers}}", source]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=QUICK_SECONDS, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KitError("images", f"`docker` does not answer on this machine: {error}", "docker info") from None
    if done.returncode:
        raise KitError(
            "images",
            f"The image {source} is not on this machine: {done.stderr.strip()}",
            "repeat the command; it is made",
        )
    image_id, _, layers = done.stdout.partition(" ")
    return Local(ref, source, image_id, tuple(json.loads(layers) or ()))


class Pieces:
    """The folder of pieces: ``<diff id>/NNNN.z``, and ``images/<id>.json`` with configurations.

    Args:
        folder: such as ``build/layers``; made where absent.
        sudo: words before `docker`, where its socket asks for more rights.
        store: the engine's own folders, where they are ours to read; else everything comes out of `docker save`.
    """

    def __init__(self, folder: Path, sudo: Sequence[str] = (), store: Store | None = None) -> None:
        self._folder, self._sudo, self._store = folder, list(sudo), store

    def bring(self, image: Local, wanted: Collection[str]) -> bytes:
        """Have an image's configuration and some of its layers in the folder; it is read at most once.

        Args:
            image: which.
            wanted: diff ids of the layers.

        Returns:
            The configuration.

        Raises:
            KitError: the engine does not give the image.
        """
        config = self._folder / "images" / f"{image.id.removeprefix(SHA256)}.json"
        with self._locked():
            missing = [layer for layer in wanted if not self._place(layer).is_dir()]
            if missing or not config.is_file():
                self._read(image, missing, config)
            for layer in wanted:
                (self._place(layer) / _ABOUT).touch()
            return config.read_bytes()

    def about(self, layer: str) -> About:
        """Describe a layer that was brought."""
        told = json.loads((self._place(layer) / _ABOUT).read_text(encoding="utf-8"))
        return About(int(told["size"]), tuple((int(size), str(digest)) for size, digest in told["pieces"]))

    def piece(self, layer: str, number: int) -> bytes:
        """Give a piece of a layer that was brought."""
        return self._piece(self._place(layer), number).read_bytes()

    def drop(self, layer: str) -> None:
        """Forget a layer, which is read anew when it is wanted again."""
        with self._locked():
            shutil.rmtree(self._place(layer), ignore_errors=True)

    def prune(self, used: Collection[str]) -> None:
        """Remove what was not used for longest, until the rest is small enough.

        Args:
            used: diff ids of layers that stay in any case.
        """
        with self._locked():
            room = KEPT_BYTES
            kept = {layer.removeprefix(SHA256) for layer in used}
            layers = [path.parent for path in self._folder.glob(f"*/{_ABOUT}")]
            for place in sorted(layers, key=_age):
                if place.name in kept or _age(place) < KEPT_SECONDS:
                    continue
                room -= sum(path.stat().st_size for path in place.iterdir())
                if room < 0:
                    shutil.rmtree(place, ignore_errors=True)
            for path in (self._folder / "images").glob("*.json"):
                if time.time() - path.stat().st_mtime > KEPT_SECONDS:
                    path.unlink()

    def _place(self, layer: str) -> Path:
        return self._folder / layer.removeprefix(SHA256)

    @staticmethod
    def _piece(place: Path, number: int) -> Path:
        return place / f"{number:04d}.z"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time: of many hosts' forks, the first makes what the others wait for."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read(self, image: Local, wanted: Collection[str], config: Path) -> None:
        config.parent.mkdir(exist_ok=True)
        content = self._store.config(image.id) if self._store else None
        chains = dict(zip(image.layers, image_archive.chain_ids(image.layers), strict=True))
        rest = [layer for layer in wanted if not self._stored(layer, chains[layer])]
        if content is None or rest:
            content = self._saved(image, rest)
        if tuple(json.loads(content)["rootfs"]["diff_ids"]) != image.layers:
            raise KitError("images", f"{image.source} changed while it was read.", "repeat the command")
        new = config.with_suffix(".new")
        new.write_bytes(content)
        new.replace(config)

    def _stored(self, layer: str, chain: str) -> bool:
        """Take a layer out of the engine's own folders; whether that worked."""
        if self._store is None:
            return False
        digest = hashlib.sha256()

        def plain(store: Store) -> Iterator[bytes]:
            for part in store.layer(chain):
                digest.update(part)
                yield part

        try:
            content = io.BufferedReader(image_archive.Chunks(plain(self._store)), PIECE_BYTES)
            self._keep(layer, cast("IO[bytes]", content), lambda: SHA256 + digest.hexdigest())
        except (OSError, ValueError, KeyError, EOFError, zlib.error):
            return False
        return self._place(layer).is_dir()

    def _saved(self, image: Local, wanted: Collection[str]) -> bytes:
        """Take layers out of `docker save`; gives the configuration."""
        words = [*self._sudo, "docker", "save", image.source]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as saving:  # noqa: S603
            try:
                with deadline.after(SAVE_SECONDS, saving.kill):
                    return image_archive.read(cast("IO[bytes]", saving.stdout), wanted, self._keep, self._folder)
            except EngineError as error:
                saving.kill()
                said = cast("IO[bytes]", saving.stderr).read().decode(errors="replace").strip()
                raise KitError(error.code, f"{image.source}: {error.problem} {said}", error.remedy) from None

    def _keep(self, layer: str, content: IO[bytes], digest: Callable[[], str] | None = None) -> None:
        """Cut a layer into pieces, in a folder that gets its name when all are in there and its digest is right."""
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))
        try:
            size = 0
            pieces: list[tuple[int, str]] = []
            while plain := content.read(PIECE_BYTES):
                packed = zlib.compress(plain, LEVEL)
                self._piece(new, len(pieces)).write_bytes(packed)
                pieces.append((len(packed), hashlib.sha256(packed).hexdigest()))
                size += len(plain)
            (new / _ABOUT).write_text(json.dumps({"size": size, "pieces": pieces}), encoding="utf-8")
            if digest is None or digest() == layer:
                new.rename(self._place(layer))
        finally:
            shutil.rmtree(new, ignore_errors=True)


def _age(place: Path) -> float:
    return time.time() - (place / _ABOUT).stat().st_mtime
