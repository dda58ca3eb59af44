"""The environment reader."""

from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from config import env

ODD = 'it\'s "quoted" $HOME ${HOME} # no comment \\ back=slash \U0001f4e8 '


@pytest.mark.parametrize("value", [ODD, "", "two\nlines", "x" * 4096])
def test_text_comes_out_as_it_went_in(monkeypatch, value: str) -> None:
    monkeypatch.setenv("SAMPLE", value)
    assert env.text("SAMPLE", "other") == value


def test_a_file_is_read_and_one_line_end_taken_off(monkeypatch, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{ODD}\r\nsecond\n\n", encoding="utf-8", newline="")
    monkeypatch.setenv("SAMPLE_FILE", str(path))
    assert env.text("SAMPLE") == f"{ODD}\r\nsecond\n"


def test_value_and_file_together_are_an_error(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAMPLE", "")
    monkeypatch.setenv("SAMPLE_FILE", str(tmp_path))
    with pytest.raises(ImproperlyConfigured, match="Both SAMPLE and SAMPLE_FILE are set"):
        env.text("SAMPLE")


def test_a_file_that_cannot_be_read_is_named(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAMPLE_FILE", str(tmp_path / "absent"))
    with pytest.raises(ImproperlyConfigured, match=r"SAMPLE_FILE names .*absent.*No such file"):
        env.text("SAMPLE")


@pytest.mark.parametrize("value", [None, ""])
def test_what_is_required_is_neither_missing_nor_empty(monkeypatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv("SAMPLE", raising=False)
    else:
        monkeypatch.setenv("SAMPLE", value)
    with pytest.raises(ImproperlyConfigured, match="Set SAMPLE"):
        env.text("SAMPLE")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("true", True), ("True", True), ("1", True), ("no", False), ("off", False), ("FALSE", False)],
)
def test_booleans(monkeypatch, value: str, expected: bool) -> None:
    monkeypatch.setenv("SAMPLE", value)
    assert env.boolean("SAMPLE", not expected) is expected


@pytest.mark.parametrize("value", ["ture", "", "2", "yes please"])
def test_a_typo_never_means_false(monkeypatch, value: str) -> None:
    monkeypatch.setenv("SAMPLE", value)
    with pytest.raises(ImproperlyConfigured, match="SAMPLE must be true or false"):
        env.boolean("SAMPLE", False)


@pytest.mark.parametrize("value", ["0", "65536", "-1", "x", "1.5", ""])
def test_whole_numbers_have_bounds(monkeypatch, value: str) -> None:
    monkeypatch.setenv("SAMPLE", value)
    with pytest.raises(ImproperlyConfigured, match="SAMPLE must be"):
        env.integer("SAMPLE", 5, minimum=1, maximum=65535)


def test_defaults_hold_where_nothing_is_set(monkeypatch) -> None:
    monkeypatch.delenv("SAMPLE", raising=False)
    assert env.boolean("SAMPLE", True) is True
    assert env.integer("SAMPLE", 5, minimum=1, maximum=9) == 5
    assert env.words("SAMPLE") == []
    assert env.text("SAMPLE", "given") == "given"


def test_lists(monkeypatch) -> None:
    monkeypatch.setenv("SAMPLE", " a.example, b.example ,,")
    assert env.words("SAMPLE") == ["a.example", "b.example"]
