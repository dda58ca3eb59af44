"""The commands that the docs tell their reader to type, so that docs and test cannot drift apart."""

from pathlib import Path

MARK = "<!-- run on fresh hosts by tests/fresh -->"


def commands(page: Path, *, marked_only: bool, only: str = "", without: str = "") -> list[str]:
    """Read the commands of a page's `sh` blocks.

    Args:
        page: a Markdown file.
        marked_only: take only blocks right under the line MARK; otherwise all.
        only: the one heading of the page (such as ``### Off-site``) whose blocks are taken; empty for all.
        without: a heading whose blocks are not.

    Returns:
        The commands in the page's order, one a line; lines that end in a backslash are joined.

    Raises:
        ValueError: there is none, so a test would run nothing, or a heading is not there.
    """
    found: list[str] = []
    taking = False
    previous = ""
    pending = ""
    lines = page.read_text(encoding="utf-8").splitlines()
    if any(heading and heading not in lines for heading in (only, without)):
        raise ValueError(f"{page.name} lacks heading {only or without}")
    heading, fenced = "", False
    for line in lines:
        if line.startswith("```"):
            fenced = not fenced
        elif line.startswith("#") and not fenced:
            heading = line
        if line == "```sh":
            taking = (not marked_only or previous == MARK) and heading != without and (not only or heading == only)
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
