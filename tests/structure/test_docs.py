"""Every command that a page tells its reader to type is run by a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fresh.documented import commands
from support.kit import ROOT

# Who runs the commands of a page: tests/fresh all of these on a fresh machine, tests/e2e those against an empty host.
RUN_BY = {
    "README.md": "tests/fresh/deployment.py",
    "docs/QUICKSTART.md": "tests/fresh/test_fresh.py",
    "docs/DOCKER_SETUP.md": "tests/fresh/test_fresh.py",
    "docs/OPERATIONS.md": "tests/e2e/test_prod.py",
    "docs/CI.md": "tests/e2e/test_prod_days.py",
    "docs/DISASTER.md": "tests/e2e/test_disaster.py",
}
# Not in a test of their own: they are what runs the tests (.ci/run).
BY_CI = ("make lint", "make test")


def pages() -> list[str]:
    """Pages of the repository that hold commands."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [path.relative_to(ROOT).as_posix() for path in found if re.search(r"(?m)^```sh$", path.read_text())]


@pytest.mark.parametrize("page", pages())
def test_a_pages_commands_have_a_test_that_runs_them(page: str) -> None:
    runner = ROOT / RUN_BY[page]
    assert Path(page).stem in runner.read_text()


def test_ci_runs_the_readmes_commands_for_tests() -> None:
    text = (ROOT / ".ci/run").read_text().splitlines()
    assert [command for command in BY_CI if command not in text] == []
    assert set(BY_CI) <= set(commands(ROOT / "README.md", marked_only=False))


def test_every_make_target_of_the_docs_exists() -> None:
    known = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for line in re.findall(
            r"`(make [^`\n]+)`|^(make .+)$|- run: (make .+)$|^    - (make .+)$", path.read_text(), re.MULTILINE
        ):
            words = next(filter(None, line)).split()[1:]
            targets = [word for word in words if re.fullmatch(r"[a-z][a-z-]+", word)]
            assert set(targets[:1]) <= known, f"{path.name}: {line}"


def test_every_test_that_a_story_names_exists() -> None:
    told = (ROOT / "docs/FAULTS.md").read_text().partition("## What went wrong elsewhere")[2]
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", told)
    assert len(named) > 20
    for file, name in named:
        found = [path.read_text() for path in (ROOT / "tests").rglob(file)]
        assert found, file
        assert not name or any(f"def test_{name}(" in text for text in found), f"{file}::{name}"
