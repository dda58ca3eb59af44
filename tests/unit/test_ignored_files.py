"""What enters a build context, compared with Docker's own reading of the same patterns."""

from __future__ import annotations

from pathlib import Path

import pytest
from docker.utils.build import exclude_paths
from hypothesis import given, settings
from hypothesis import strategies as st
from kit_control import ignored_files
from support.kit import ROOT

FILES = (
    *(".env", ".env.prod", ".dockerignore", "Dockerfile", "a.py", "a.pyc", "b[1].txt", "deep/a.py", "deep/a.pyc"),
    *("deep/deeper/.env", "deep/deeper/a.py", "deep/deeper/tests/a.py", "tests/a.py", "tests/b.txt", "other/b.txt"),
)
PARTS = (
    "*",
    "**",
    "?.py",
    "*.py*",
    "a.py",
    "deep",
    "deeper",
    "tests",
    ".env*",
    "[ab].py",
    "[!a].py",
    "..",
    ".",
    "b[1]*",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("source")
    for name in FILES:
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).touch()
    (made / "link").symlink_to("deep")
    return made


patterns = st.lists(
    st.tuples(st.sampled_from(["", "!", "/"]), st.lists(st.sampled_from(PARTS), min_size=1, max_size=3)).map(
        lambda told: told[0] + "/".join(told[1])
    ),
    max_size=5,
)


@given(lines=patterns)
@settings(max_examples=400, deadline=None)
def test_any_patterns_leave_what_docker_leaves(folder: Path, lines: list[str]) -> None:
    assert sorted(ignored_files.kept(folder, lines)) == sorted(exclude_paths(str(folder), list(lines)))


def test_the_examples_own_patterns_do_too() -> None:
    lines = [
        line
        for path in (ROOT / ".dockerignore", ROOT / "app/.dockerignore")
        for line in path.read_text().splitlines()
        if line and not line.startswith("#")
    ]
    kept = ignored_files.kept(ROOT / "app", lines)
    assert sorted(kept) == sorted(exclude_paths(str(ROOT / "app"), list(lines)))
    assert "manage.py" in kept
    assert not any("tests" in name.split("/") for name in kept)
