"""Commands are read out of the docs as they stand there."""

from pathlib import Path

import pytest
from fresh.documented import MARK, commands

PAGE = f"""# Title

{MARK}
```sh
make deploy
# a remark
curl \\
  localhost
```

```sh
make lint
```

```yaml
key: value
```
"""


def test_marked_blocks_only(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert commands(page, marked_only=True) == ["make deploy", "curl   localhost"]


def test_all_shell_blocks_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert commands(page, marked_only=False) == ["make deploy", "curl   localhost", "make lint"]


def test_one_section_or_all_but_one(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    # A remark in another language is no heading.
    page.write_text(PAGE + "### Apart\n```yaml\n# Title\n```\n```sh\nmake apart\n```\n# Next\n```sh\nmake next\n```\n")
    assert commands(page, marked_only=False, only="### Apart") == ["make apart"]
    rest = ["make deploy", "curl   localhost", "make lint", "make next"]
    assert commands(page, marked_only=False, without="### Apart") == rest
    with pytest.raises(ValueError, match=r"page\.md lacks heading ### Elsewhere"):
        commands(page, marked_only=False, without="### Elsewhere")


def test_a_page_without_commands_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\nmake deploy\n```\n")
    with pytest.raises(ValueError, match=r"page\.md holds no command under"):
        commands(page, marked_only=True)
