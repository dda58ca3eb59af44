"""Saved images in both layouts, and which layers of one an engine lacks; no engine is asked."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import IO

import pytest
from kit_engine import image_archive
from kit_engine.errors import EngineError

# The second is larger than what is held as a document.
LAYERS = [b"lowest" * 1000, bytes(range(256)) * (3 << 12), b"top" * 500]


def diff_id(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


DIFF_IDS = [diff_id(content) for content in LAYERS]
CONFIG = json.dumps({"rootfs": {"type": "layers", "diff_ids": DIFF_IDS}, "config": {}}).encode()


def packed(files: dict[str, bytes], links: dict[str, str] | None = None) -> io.BytesIO:
    """A tar archive, to read from its start."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    buffer.seek(0)
    return buffer


def old_layout() -> io.BytesIO:
    """As Engine 20.10 writes it: one folder a layer in the order of their names, the manifest last."""
    paths = [f"{name}/layer.tar" for name in ("c3", "a1", "b2")]
    files = {f"{path[:2]}/json": b'{"id": "x"}' for path in paths}
    files.update(zip(paths, LAYERS, strict=True))
    files[f"{diff_id(CONFIG)[7:]}.json"] = CONFIG
    manifest = [{"Config": f"{diff_id(CONFIG)[7:]}.json", "RepoTags": ["x:1"], "Layers": paths}]
    return packed({**dict(sorted(files.items())), "manifest.json": json.dumps(manifest).encode()})


def new_layout(compressed: bool) -> io.BytesIO:
    """As Engine 25 and later write it: blobs by digest, compressed where containerd keeps them so."""
    blobs = [gzip.compress(content) if compressed else content for content in LAYERS]
    names = [f"blobs/sha256/{diff_id(blob)[7:]}" for blob in blobs]
    config = f"blobs/sha256/{diff_id(CONFIG)[7:]}"
    manifest = [{"Config": config, "RepoTags": ["x:1"], "Layers": names}]
    files = {**dict(zip(names, blobs, strict=True)), config: CONFIG, "manifest.json": json.dumps(manifest).encode()}
    return packed({**files, "index.json": b"{}", "oci-layout": b"{}"})


@pytest.mark.parametrize(
    "saved", [old_layout(), new_layout(False), new_layout(True)], ids=["20.10", "25", "containerd"]
)
@pytest.mark.parametrize("wanted", [[], DIFF_IDS[2:], DIFF_IDS[1:2], DIFF_IDS], ids=["none", "top", "large", "all"])
def test_the_wanted_layers_and_the_configuration_are_read(saved: io.BytesIO, wanted: list[str], tmp_path: Path) -> None:
    saved.seek(0)
    kept: dict[str, bytes] = {}

    def keep(layer: str, content: IO[bytes]) -> None:
        kept[layer] = content.read()

    assert image_archive.read(saved, wanted, keep, tmp_path) == CONFIG
    assert kept == {layer: content for layer, content in zip(DIFF_IDS, LAYERS, strict=True) if layer in wanted}


def test_an_archive_that_ends_early_is_refused(tmp_path: Path) -> None:
    cut = io.BytesIO(old_layout().getvalue()[: 1 << 20])
    with pytest.raises(EngineError, match="did not give one whole image"):
        image_archive.read(cut, DIFF_IDS, lambda *_: None, tmp_path)


def test_a_layer_that_is_not_in_there_is_named(tmp_path: Path) -> None:
    other = diff_id(b"other")
    with pytest.raises(EngineError, match=f"gave no layer {other}"):
        image_archive.read(old_layout(), [other], lambda *_: None, tmp_path)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    stream = io.BytesIO()
    top = [(DIFF_IDS[2], len(LAYERS[2]), io.BytesIO(LAYERS[2]))]
    image_archive.write(stream, "x:1", CONFIG, DIFF_IDS, top)
    stream.seek(0)
    kept: dict[str, bytes] = {}
    assert image_archive.read(stream, DIFF_IDS[2:], lambda n, c: kept.update({n: c.read()}), tmp_path) == CONFIG
    assert kept == {DIFF_IDS[2]: LAYERS[2]}


class TestLacking:
    """A layer counts as there only on top of the same layers as here."""

    def test_chain_ids_are_those_of_the_specification(self) -> None:
        # From the OCI image specification: ChainID(A|B) = Digest(ChainID(A) + " " + DiffID(B)).
        first, second = "sha256:" + "1" * 64, "sha256:" + "2" * 64
        assert image_archive.chain_ids([first, second]) == [first, diff_id(f"{first} {second}".encode())]
        assert image_archive.chain_ids([]) == []

    def test_the_rest_of_a_common_beginning_is_lacking(self) -> None:
        there = set(image_archive.chain_ids([DIFF_IDS[0], DIFF_IDS[1]]))
        assert image_archive.lacking(DIFF_IDS, there) == DIFF_IDS[2:]
        assert image_archive.lacking(DIFF_IDS[:2], there) == []

    def test_a_layer_on_another_base_is_lacking(self) -> None:
        there = set(image_archive.chain_ids([DIFF_IDS[1], DIFF_IDS[2]]))
        assert image_archive.lacking(DIFF_IDS, there) == DIFF_IDS

    def test_a_layer_that_comes_twice_is_sent_once(self) -> None:
        assert image_archive.lacking([DIFF_IDS[0], DIFF_IDS[1], DIFF_IDS[0]], set()) == DIFF_IDS[:2]
