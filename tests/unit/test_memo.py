"""What follows from a text is computed once, and never wrongly."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from kit_control import memo


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one of our own."""
    monkeypatch.setattr(memo, "FOLDER", tmp_path / "memo")
    return tmp_path / "memo"


def remembered(text: str, value: object, made: list[str], what: str = "upper") -> object:
    """Ask for a value, and note that it was made."""

    def make() -> object:
        made.append(text)
        return value

    return memo.remembered(what, text.encode(), make)


def test_the_same_text_is_computed_once(folder: Path) -> None:
    made: list[str] = []
    value = {"a": [1, None, "é"]}
    assert [remembered("one", value, made), remembered("one", "other", made)] == [value, value]
    assert remembered("two", 2, made) == 2
    assert remembered("one", 3, made, "lower") == 3
    assert made == ["one", "two", "one"]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_is_damaged_is_computed_anew(folder: Path) -> None:
    made: list[str] = []
    remembered("one", "ONE", made)
    for content in (b"", b"nonsense", b"\xdb"):
        (path,) = folder.iterdir()
        path.write_bytes(content)
        assert remembered("one", "ONE", made) == "ONE"
    assert len(made) == 4


def test_what_cannot_be_kept_is_computed_each_time(folder: Path) -> None:
    made: list[str] = []
    day = datetime.date(2026, 1, 2)
    assert [remembered("one", day, made), remembered("one", day, made)] == [day, day]
    assert len(made) == 2
    folder.parent.joinpath("file").touch()
    memo.FOLDER = folder.parent / "file"
    assert remembered("two", 2, made) == 2


def test_old_values_go(folder: Path) -> None:
    for number in range(memo.MOST + 5):
        remembered(str(number), number, [])
    assert len(list(folder.iterdir())) == memo.MOST
