"""Every rendered file, to the letter: a change of templates shows in review as a change of these files.

KIT_WRITE_GOLDEN=1 writes them anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.kit import ENVIRONMENTS, ROOT, Rendered

GOLDEN = Path(__file__).parent / "golden"


def texts(folder: Path) -> dict[str, str]:
    """Read a bundle; what depends on the machine is replaced by a word."""
    skipped = {"secrets.json", "result.json"}
    return {
        path.relative_to(folder).as_posix(): path.read_text().replace(str(ROOT), "<kit>")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in skipped
    }


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_bundle_is_what_was_reviewed(env: str, rendered: Rendered) -> None:
    found = texts(rendered(env))
    golden = GOLDEN / env
    if os.environ.get("KIT_WRITE_GOLDEN"):
        for name, text in found.items():
            (golden / name).parent.mkdir(parents=True, exist_ok=True)
            (golden / name).write_text(text)
    assert found == texts(golden)
