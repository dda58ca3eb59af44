"""Values come out of Compose's parser, python-dotenv and a running process as they went in."""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path

import dotenv
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit_control.dotenv_file import encode
from support.engine import base_image

pytestmark = pytest.mark.engine

# No NUL (no environment can hold it) and no lone surrogates (no UTF-8 file can).
CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
NASTY = st.sampled_from(
    ["$", "${X}", "$$", "\\", '"', "'", "#", " ", "\n", "\r\n", "\t", "=", "é", "😀", "`", "!", "{{x}}"]
)
VALUES = st.lists(CHARACTERS | NASTY, max_size=40).map("".join)
NAMES = st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True).filter(lambda name: name != "KIT_DOLLAR")
KNOWN = {
    "QUOTES": "a 'single' and a \"double\" one",
    "DOLLARS": "$HOME ${HOME} $$ \\$ ${KIT_DOLLAR} ${X:-y} $(id)",
    "BACKSLASHES": "\\ \\\\ \\n \\t \\\" \\' end\\",
    "LINES": "one\ntwo\r\nthree\n",
    "COMMENT": "a # b #c",
    "SPACES": "  both ends  ",
    "EQUALS": "a=b==c",
    "EMOJI": "naïve 😀 漢字",
    "EMPTY": "",
    "LONG": "x$'\"\\ " * 683,
    "CONTROL": "\x01\x07\x08\x0b\x0c\x1b\x7f\x85\u2028",
}


def read_by_compose(text: str, folder: Path) -> dict[str, str]:
    """Let the real `docker compose` parse a .env file."""
    (folder / ".env.test").write_text(text, encoding="utf-8", newline="")
    (folder / "compose.yml").write_text("services: {a: {image: x, env_file: .env.test}}\n")
    command = ["docker", "compose", "--project-name", "kit-env", "-f", str(folder / "compose.yml")]
    done = subprocess.run([*command, "config", "--format", "json"], capture_output=True, check=True, timeout=30)
    environment: dict[str, str] = json.loads(done.stdout)["services"]["a"]["environment"]
    # What `config` prints is a Compose file again, in which a dollar is doubled.
    return {name: value.replace("$$", "$") for name, value in environment.items() if name != "KIT_DOLLAR"}


def read_by_dotenv(text: str) -> dict[str, str | None]:
    """Read a .env file with python-dotenv's own defaults."""
    values = dotenv.dotenv_values(stream=io.StringIO(text, newline=""))
    return {name: value for name, value in values.items() if name != "KIT_DOLLAR"}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(NAMES, VALUES, min_size=1, max_size=30))
def test_any_text_survives_both_parsers(values: dict[str, str], tmp_path: Path) -> None:
    text = encode(values)
    assert read_by_dotenv(text) == values
    assert read_by_compose(text, tmp_path) == values


def test_known_traps_survive_both_parsers(tmp_path: Path) -> None:
    text = encode(KNOWN, dict.fromkeys(KNOWN, "A meaning, with 'quotes' and ${X}."))
    assert read_by_dotenv(text) == KNOWN
    assert read_by_compose(text, tmp_path) == KNOWN


def test_known_traps_reach_a_process(tmp_path: Path) -> None:
    (tmp_path / ".env.test").write_text(encode(KNOWN), encoding="utf-8", newline="")
    compose = f"services: {{a: {{image: '{base_image('python')}', env_file: .env.test, network_mode: none}}}}\n"
    (tmp_path / "compose.yml").write_text(compose)
    command = ["docker", "compose", "--project-name", f"kit-env-{os.getpid()}", "-f", str(tmp_path / "compose.yml")]
    script = "import json, os; print(json.dumps({k: os.environb[k.encode()].decode() for k in os.environ}))"
    try:
        done = subprocess.run(
            [*command, "run", "--rm", "-T", "a", "python3", "-c", script], capture_output=True, check=True, timeout=60
        )
    finally:
        subprocess.run([*command, "down"], capture_output=True, check=False, timeout=60)
    found = json.loads(done.stdout)
    assert {name: found[name] for name in KNOWN} == KNOWN
