"""Bring a host the images that it lacks: in pieces over the task's own connection, or by a registry.

The counterpart on the host is kit_engine.image_transfer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ansible.utils.display import Display
from kit_engine import image_archive, image_transfer

from kit_control import engine_call, image_pieces
from kit_control.action import KitAction
from kit_control.errors import KitError
from kit_control.image_pieces import Local, Pieces

# One call's: a call costs half a second, and a cut loses at most one.
CALL_BYTES = 24 << 20
# A damaged layer is sent a second time; then something is wrong that a repetition does not mend.
ROUNDS = 3


@dataclass(frozen=True)
class Host:
    """Where images go, and how the engine there is called.

    Attributes:
        action: the action plugin whose connection is used.
        root: the deploy root.
        python: the host's Python.
    """

    action: KitAction
    root: Path
    python: str

    def call(self, request: Mapping[str, Any], stdin: bytes | None = None) -> dict[str, Any]:
        """Call the engine's verb `images`.

        Raises:
            KitError: the engine refused.
        """
        words = ["--request", json.dumps(request)]
        told = engine_call.call(self.action, self.root, self.python, "images", words, stdin=stdin)
        if told.get("failed"):
            problem, _, remedy = str(told["msg"]).partition("\nNext: ")
            raise KitError(str(told.get("code", "images")), f"{self.action.host}: {problem}", remedy or "docker info")
        return told

    def say(self, line: str) -> None:
        """Show a line of progress."""
        Display().display(f"    [{self.action.host}] {line}")


@dataclass
class Sent:
    """How far a transfer is.

    Attributes:
        total: bytes of all pieces that the host needs.
        done: of them there already, at the beginning or since.
        bytes: of them sent by this run.
    """

    total: int = 0
    done: int = 0
    bytes: int = 0


def transfer(
    host: Host, images: Sequence[Local], standing: Mapping[str, Any], pieces: Pieces, min_free_bytes: int
) -> dict[str, Any]:
    """Send what the host lacks.

    Args:
        host: where to.
        images: those that it lacks.
        standing: what it has of them, as the verb tells it.
        pieces: the folder of pieces.
        min_free_bytes: what its disks must have free besides.

    Returns:
        ``sent_bytes``, ``seconds``, and ``identities``: the digest of each configuration by reference.

    Raises:
        KitError: the host refused, or damages what it gets.
    """
    began, sent = time.monotonic(), Sent()
    told = dict(standing)
    left: Sequence[Local] = images
    identities = {}
    for _ in range(ROUNDS):
        chains = set(told["chains"])
        wanted = {image: image_archive.lacking(image.layers, chains) for image in left}
        header = _header(wanted, pieces)
        identities.update({image.ref: image.identity for image in header.images})
        missing = _missing(header, told["staged"])
        sizes = {name: [size for size, _ in pieces.about(name).pieces] for name in header.layers}
        sent.total = sum(map(sum, sizes.values()))
        sent.done = sent.total - sum(sizes[name][number] for name, number in missing)
        # Twice: an engine unpacks what it is given before it makes layers of it.
        need = min_free_bytes + 2 * sum(layer.size for layer in header.layers.values()) if missing else 0
        for batch in _batches(missing, sizes):
            told = _send(host, header, batch, pieces, need)
            need = 0
            sent.bytes += sum(sizes[name][number] for name, number in batch)
            sent.done += sum(sizes[name][number] for name, number in batch)
            host.say(f"images: {sent.done / 1e6:.1f} of {sent.total / 1e6:.1f} MB, {time.monotonic() - began:.1f} s")
            if told["refused"]:
                break
        left = [image for image in left if not told["images"].get(image.ref)]
        if not left:
            pieces.prune({layer for image in images for layer in image.layers})
            return {
                "sent_bytes": sent.bytes,
                "seconds": round(time.monotonic() - began, 2),
                "identities": identities,
            }
        for layer in told["refused"]:
            host.say(f"layer {layer[:19]} was damaged and is sent again")
            pieces.drop(layer)
    names = ", ".join(image.ref for image in left)
    raise KitError(
        "images",
        f"{host.action.host} does not take {names}: layers arrive damaged there, or vanish.",
        f"docker image ls    (on {host.action.host}: does something remove images?), then repeat the command",
    )


def _header(wanted: Mapping[Local, Sequence[str]], pieces: Pieces) -> image_transfer.Header:
    images, layers = [], {}
    for image, lacking in wanted.items():
        config = pieces.bring(image, lacking)
        images.append(image_transfer.Image(image.ref, config.decode(), image.layers))
        for name in lacking:
            about = pieces.about(name)
            layers[name] = image_transfer.Layer(about.size, len(about.pieces))
    return image_transfer.Header(tuple(images), layers)


def _missing(header: image_transfer.Header, staged: Mapping[str, Sequence[int]]) -> list[tuple[str, int]]:
    """List the pieces to send, layer and number, in the order in which the images want them."""
    return [
        (name, number)
        for name, layer in header.layers.items()
        for number in range(layer.pieces)
        if number not in staged.get(name, ())
    ]


def _batches(missing: Sequence[tuple[str, int]], sizes: Mapping[str, Sequence[int]]) -> Iterator[list[tuple[str, int]]]:
    """Cut the pieces into calls; there is one even without any piece, to have what is staged loaded."""
    batch: list[tuple[str, int]] = []
    size = 0
    for name, number in missing:
        more = sizes[name][number]
        if batch and size + more > CALL_BYTES:
            yield batch
            batch, size = [], 0
        batch.append((name, number))
        size += more
    yield batch


def _send(
    host: Host, header: image_transfer.Header, batch: Sequence[tuple[str, int]], pieces: Pieces, free_bytes: int
) -> dict[str, Any]:
    contents = [pieces.piece(name, number) for name, number in batch]
    described = []
    for (name, number), content in zip(batch, contents, strict=True):
        digest = pieces.about(name).pieces[number][1]
        described.append(image_transfer.Piece(name, number, len(content), digest))
    line = json.dumps(
        asdict(image_transfer.Header(header.images, header.layers, tuple(described), free_bytes)), ensure_ascii=False
    )
    return host.call({"mode": "take"}, b"\n".join([line.encode(), b"".join(contents)]))


def ask(host: Host, refs: Sequence[str]) -> dict[str, Any]:
    """Ask the host what of some images it has, as its preflight tells it too."""
    return host.call({"mode": "ask", "refs": list(refs)})


def look_up(images: Sequence[Mapping[str, str]], sudo: Sequence[str]) -> list[Local]:
    """Ask this machine's engine about images; of each ``ref`` and ``source`` are given."""
    return [image_pieces.look_up(str(image["ref"]), str(image["source"]), sudo) for image in images]
