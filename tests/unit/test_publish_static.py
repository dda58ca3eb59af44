"""What a release leaves of the static files of those before it."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest
from support.kit import ROOT

PUBLISH = runpy.run_path(str(ROOT / "image/publish_static.py"))


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
