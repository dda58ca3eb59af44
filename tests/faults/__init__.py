"""Faults on purpose, and the page that tells what became of them."""

from __future__ import annotations

from support.kit import ROOT

PAGE = ROOT / "docs/FAULTS.md"


def written_between(begin: str, end: str, text: str) -> None:
    """Put a table between its two marks on the page."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    PAGE.write_text(f"{head}{begin}{text}{end}{rest.partition(end)[2]}", encoding="utf-8")
