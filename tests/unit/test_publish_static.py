"""What a release leaves of the static files of those before it."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.kit import ROOT

PUBLISH = runpy.run_path(str(ROOT / "image/publish_static.py"))


@dataclass
class Volume:
    """What nginx serves, and the images whose files are published to it."""

    root: Path

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.root / "volume"

    def image(self, name: str, **files: str) -> Path:
        """The folder of a release's own files, with these among them."""
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        for file, content in files.items():
            (folder / file).write_text(content)
        return folder

    def release(self, name: str, *, kept: Sequence[str] | None = None, **files: str) -> None:
        """Publish a release; default: all that there are lists of are kept."""
        image = self.image(name, **files)
        PUBLISH["publish"](image, self.folder)
        there = [path.name for path in self.folder.glob(".kit/*")]
        PUBLISH["tidy"](image, self.folder, name, there if kept is None else kept)

    def served(self) -> list[str]:
        """Names of all files but the lists."""
        return sorted(path.name for path in self.folder.iterdir() if path.is_file() and path.name != ".kit")


def test_files_with_a_hash_are_served_on_for_pages_of_earlier_releases(tmp_path: Path) -> None:
    served = tmp_path / "volume"
    for number in range(3):
        image = tmp_path / f"image-{number}"
        (image / "css").mkdir(parents=True)
        (image / f"css/site.{number}.css").write_text(str(number))
        (image / "staticfiles.json").write_text(f'{{"site.css": "site.{number}.css"}}')
        assert PUBLISH["publish"](image, served) == 2
    assert sorted(path.name for path in (served / "css").iterdir()) == ["site.0.css", "site.1.css", "site.2.css"]
    assert (served / "staticfiles.json").read_text() == '{"site.css": "site.2.css"}'


def test_the_manifest_comes_last_and_what_is_there_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, served = tmp_path / "image", tmp_path / "volume"
    (image / "zoo").mkdir(parents=True)
    for name in ("a.css", "staticfiles.json", "zoo/z.css"):
        (image / name).write_text(name)
    order: list[str] = []
    replace = Path.replace

    def noted(path: Path, to: Path) -> Path:
        order.append(to.name)
        return replace(path, to)

    monkeypatch.setattr(Path, "replace", noted)
    PUBLISH["publish"](image, served)
    assert order[-1] == "staticfiles.json"
    os.utime(served / "a.css", (1, 1))
    assert PUBLISH["publish"](image, served) == 0
    assert (served / "a.css").stat().st_mtime == 1


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    """A volume that nothing was published to."""
    return Volume(tmp_path)


def test_what_only_releases_published_that_are_gone_goes(volume: Volume) -> None:
    for name in ("one", "two", "three"):
        volume.release(name, **{f"site.{name}.css": name, "same.css": "same"})
    assert volume.served() == ["same.css", "site.one.css", "site.three.css", "site.two.css"]
    assert PUBLISH["tidy"](volume.image("three"), volume.folder, "three", ["two"]) == 1
    assert volume.served() == ["same.css", "site.three.css", "site.two.css"]
    assert sorted(path.name for path in (volume.folder / ".kit").iterdir()) == ["three", "two"]
    # It may be brought back by what was released anew.
    volume.release("one", **{"site.one.css": "one"})
    assert "site.one.css" in volume.served()


def test_a_file_that_no_list_names_stays(volume: Volume) -> None:
    volume.folder.mkdir()
    (volume.folder / "put-there.txt").write_text("by hand")
    volume.release("one", **{"site.one.css": "one"})
    volume.release("two", kept=[], **{"site.two.css": "two"})
    assert volume.served() == ["put-there.txt", "site.two.css"]


def test_everything_stays_while_a_release_is_kept_that_has_no_list(volume: Volume) -> None:
    volume.release("one", **{"site.one.css": "one"})
    volume.release("two", kept=["zero"], **{"site.two.css": "two"})
    assert volume.served() == ["site.one.css", "site.two.css"]
    volume.release("three", kept=["two"], **{"site.three.css": "three"})
    assert volume.served() == ["site.three.css", "site.two.css"]


@pytest.mark.parametrize("removed", range(4))
def test_one_that_is_killed_leaves_what_is_needed_and_the_next_goes_on(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, removed: int
) -> None:
    volume.release("one", **{f"{number}.one.css": "one" for number in range(3)}, **{"same.css": "same"})
    volume.release("two", **{"same.css": "same"})
    unlink, left = Path.unlink, removed

    def ends(path: Path, *, missing_ok: bool = False) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", ends)
    with pytest.raises(KeyboardInterrupt):
        volume.release("three", kept=["two"], **{"site.three.css": "three"})
    monkeypatch.undo()
    assert {"same.css", "site.three.css"} <= set(volume.served())
    volume.release("three", kept=["two"], **{"site.three.css": "three"})
    assert volume.served() == ["same.css", "site.three.css"]


@pytest.mark.parametrize("left", ["not JSON", None])
def test_what_cannot_be_tidied_is_told_and_no_failure(volume: Volume, left: str | None) -> None:
    image = volume.image("one", **{"site.one.css": "one"})
    folder = volume.folder / ".kit"
    volume.folder.mkdir()
    if left is None:
        folder.write_text("no folder")
    else:
        folder.mkdir()
        (folder / "zero").write_text(left)
    words = [sys.executable, str(ROOT / "image/publish_static.py"), str(image), str(volume.folder), "one"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    copied, problem = done.stdout.splitlines()
    assert (copied, volume.served()) == ("1", ["site.one.css"])
    assert problem


def test_lists_are_for_nobody_else_to_read(volume: Volume) -> None:
    volume.release("one", **{"site.one.css": "one"})
    assert (volume.folder / ".kit").stat().st_mode & 0o777 == 0o700
