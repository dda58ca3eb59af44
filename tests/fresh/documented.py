"""The commands that the docs tell their reader to type, so that docs and test cannot drift apart."""

from pathlib import Path

MARK = "<!-- run on fresh hosts by tests/fresh -->"


def commands(page: Path, *, marked_only: bool) -> list[str]:
    """Read the commands of a page's `sh` blocks.

    Args:
        page: a Markdown file.
        marked_only: take only blocks right under the line MARK; otherwise all.

    Returns:
        The commands in the page's order, one a line; lines that end in a backslash are joined.

    Raises:
        ValueError: there is none, so a test would run nothing.
    """
    found: list[str] = []
    taking = False
    previous = ""
    pending = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line == "```sh":
            taking = not marked_only or previous == MARK
        elif line == "```":
            taking = False
        elif taking and line.strip() and not line.startswith("#"):
            pending += line
            if line.endswith("\\"):
                pending = pending[:-1]
            else:
                found.append(pending)
                pending = ""
        previous = line or previous
    if not found:
        raise ValueError(f"{page.name} holds no command{f' under {MARK}' if marked_only else ''}")
    return found
