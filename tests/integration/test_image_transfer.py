"""Images between the pieces of a control node and a real engine, here one and the same."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from uuid import uuid4

import pytest
from kit_control import image_pieces, image_store
from kit_control.image_pieces import Local, Pieces
from kit_engine import image_archive, image_transfer
from kit_engine.errors import CheckFailed, EngineError
from kit_engine.image_transfer import Header, Image, Layer, Piece
from kit_engine.report import Report
from support.engine import base_image
from support.engine_stack import docker

pytestmark = [pytest.mark.engine, pytest.mark.slow]

REPORT = Report("images", as_json=True)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Local]:
    """An image with layers of its own above a base image; files of every kind are in there."""
    mark = uuid4().hex[:12]
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text(
        f"FROM {base_image('redis')}\nUSER root\n"
        f"RUN mkdir /new && echo {mark} > /new/text && ln /new/text /new/hard && ln -s text /new/soft && "
        f"rm /etc/motd && head -c 9000000 /dev/zero > /new/large && echo {mark} > /new/ünï\n"
        f"RUN echo {mark} > /new/second\n"
    )
    ref = f"kit-test-{mark}:1"
    docker("buildx", "build", "--quiet", "--load", "--tag", ref, str(tmp_path / "context"))
    try:
        yield image_pieces.look_up(ref, ref)
    finally:
        subprocess.run(["docker", "image", "rm", "--force", ref], capture_output=True, check=False)


def own_layers(image: Local) -> list[str]:
    """What it has above its base."""
    base = image_pieces.look_up("base", base_image("redis"))
    return image_archive.lacking(image.layers, set(image_archive.chain_ids(base.layers)))


def sent(image: Local, pieces: Pieces, layers: list[str]) -> tuple[Header, bytes]:
    """What a control node would send."""
    config = pieces.bring(image, layers).decode()
    about = {name: pieces.about(name) for name in layers}
    parts = [(name, number) for name in layers for number in range(len(about[name].pieces))]
    return Header(
        (Image(image.ref, config, image.layers),),
        {name: Layer(one.size, len(one.pieces)) for name, one in about.items()},
        tuple(Piece(name, number, *about[name].pieces[number]) for name, number in parts),
    ), b"".join(pieces.piece(name, number) for name, number in parts)


def test_both_ways_to_read_a_layer_give_the_same(image: Local, tmp_path: Path) -> None:
    store = image_store.find([])
    assert store is not None, "the tests run as root, on an engine with a classic image store"
    layers = own_layers(image)
    assert len(layers) == 2
    # Without any `docker save`: its words would run `false`.
    by_store, by_save = Pieces(tmp_path / "a", ["false"], store), Pieces(tmp_path / "b")

    assert by_store.bring(image, layers) == by_save.bring(image, layers)

    for layer in layers:
        assert by_store.about(layer) == by_save.about(layer)
        assert all(by_store.piece(layer, n) == by_save.piece(layer, n) for n in range(len(by_save.about(layer).pieces)))


def test_a_store_that_is_written_in_another_way_is_passed_over(image: Local, tmp_path: Path) -> None:
    store = image_store.find([])
    assert store is not None
    other = replace(store, files=tmp_path / "nowhere")
    layers = own_layers(image)

    assert Pieces(tmp_path / "a", (), other).bring(image, layers) == Pieces(tmp_path / "b").bring(image, layers)


def test_only_the_layers_that_the_engine_lacks_are_needed(image: Local, tmp_path: Path) -> None:
    layers = own_layers(image)
    header, body = sent(image, Pieces(tmp_path / "pieces"), layers)
    docker("image", "rm", image.ref)
    assert image_transfer.standing(tmp_path, [image.ref]).images == {image.ref: ""}

    told = image_transfer.take(tmp_path, replace(header, pieces=header.pieces[:1]), body, REPORT)
    assert told.loaded == []
    assert list(told.staged) == [layers[0]]
    told = image_transfer.take(tmp_path, header, body, REPORT)

    assert told.loaded == [image.ref]
    assert told.images == {image.ref: image.id}
    assert not (tmp_path / image_transfer.STAGED).exists()
    assert docker("run", "--rm", "--network=none", "--entrypoint=cat", image.ref, "/new/hard").strip() != ""


def test_a_piece_that_changed_on_its_way_is_refused(image: Local, tmp_path: Path) -> None:
    layers = own_layers(image)
    header, body = sent(image, Pieces(tmp_path / "pieces"), layers)
    docker("image", "rm", image.ref)

    end = sum(piece.size for piece in header.pieces[:2])
    assert header.pieces[1].layer == layers[0]
    damaged = body[: end - 1] + bytes([body[end - 1] ^ 1]) + body[end:]
    told = image_transfer.take(tmp_path, header, damaged, REPORT)

    assert told.refused == [layers[0]]
    assert told.images == {image.ref: ""}
    assert told.staged == {layers[0]: [0], layers[1]: [0]}, "the others are kept"
    assert image_transfer.take(tmp_path, header, body, REPORT).loaded == [image.ref]


def test_another_content_under_a_layer_s_name_is_refused(image: Local, tmp_path: Path) -> None:
    layers = own_layers(image)
    pieces = Pieces(tmp_path / "pieces")
    header, body = sent(image, pieces, layers)
    docker("image", "rm", image.ref)
    other = pieces.piece(layers[0], 0)
    wrong = replace(header.pieces[-1], size=len(other), sha256=hashlib.sha256(other).hexdigest())
    content = body[: -header.pieces[-1].size] + other

    told = image_transfer.take(tmp_path, replace(header, pieces=(*header.pieces[:-1], wrong)), content, REPORT)

    assert told.refused == [layers[-1]]
    assert layers[-1] not in told.staged


def test_a_full_disk_is_told_before_anything_is_staged(image: Local, tmp_path: Path) -> None:
    header, body = sent(image, Pieces(tmp_path / "pieces"), own_layers(image))

    with pytest.raises((CheckFailed, EngineError), match="GiB free"):
        image_transfer.take(tmp_path, replace(header, free_bytes=1 << 60), body, REPORT)

    assert list((tmp_path / image_transfer.STAGED).iterdir()) == []


def test_a_path_as_a_layer_s_name_is_refused(tmp_path: Path) -> None:
    piece = Piece("sha256:../../x", 0, 1, hashlib.sha256(b"x").hexdigest())

    with pytest.raises(EngineError, match="names no layer"):
        image_transfer.take(tmp_path, Header((), {}, (piece,)), b"x", REPORT)


def test_a_header_survives_its_way(image: Local, tmp_path: Path) -> None:
    header, _ = sent(image, Pieces(tmp_path / "pieces"), own_layers(image))
    assert Header.read(json.dumps(asdict(header), ensure_ascii=False).encode()) == header
