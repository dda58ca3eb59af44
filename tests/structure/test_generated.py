"""What is generated and committed shows what is there today: the diagrams of docs/ARCHITECTURE.md, env/.env.example."""

from __future__ import annotations

import re
from io import StringIO

from dotenv import dotenv_values
from kit_control import diagrams, env_example, manifest
from support.kit import ENVIRONMENTS, EXAMPLE, ROOT

GOLDEN = ROOT / "tests/render/golden"


def test_diagrams_are_drawn_from_the_rendered_files() -> None:
    text = (ROOT / "docs/ARCHITECTURE.md").read_text()
    assert diagrams.redrawn(text, GOLDEN) == text, "type: make diagrams"


def test_every_environment_is_drawn_in_every_kind() -> None:
    text = (ROOT / "docs/ARCHITECTURE.md").read_text()
    drawn = set(re.findall(r"<!-- diagram: (\w+) (\w+) -->\n```mermaid", text))
    assert drawn == {(kind, env) for kind in diagrams.KINDS for env in ENVIRONMENTS}


def test_env_example_lists_the_manifests_variables_and_no_secret() -> None:
    text = (ROOT / "env/.env.example").read_text()
    project = manifest.load(EXAMPLE)
    assert env_example.example(project) == text, "type: make env-example"
    read = dotenv_values(stream=StringIO(text))
    assert list(read) == list(project.data["variables"])
    assert [name for name, one in project.data["variables"].items() if one["secret"] and read[name]] == []
