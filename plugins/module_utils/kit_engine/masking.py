"""Keep secrets out of what is told: containers and programs say what they like, and messages quote them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.stack import ENGINE_SECRETS

MASK = "********"
# A shorter one would stand in many an innocent word.
_SHORTEST_SECRET = 4


def masked(text: str, secrets: Sequence[str]) -> str:
    """Replace secret values in what a program said.

    Args:
        text: its words.
        secrets: the values; of a list or a text of several lines each part as well.
    """
    parts = {part for value in secrets for part in (value, *re.split(r"[,\n]", value))}
    for part in sorted({one.strip() for one in parts}, key=len, reverse=True):
        if len(part) >= _SHORTEST_SECRET:
            text = text.replace(part, MASK)
    return text


def of(docker: Docker) -> Callable[[str], str]:
    """Give what masks the secrets of a release; they are read when it is first used.

    Args:
        docker: the release.
    """
    known: list[str] = []

    def mask(text: str) -> str:
        if not known:
            known.extend(_secrets(docker))
        return masked(text, known)

    return mask


def _secrets(docker: Docker) -> list[str]:
    """Values that its containers have, as files or in their environment."""
    stack = docker.stack
    files = [path for path in (stack.bundle / "secrets").glob("*") if path.is_file()]
    texts = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in files}
    values = [*texts.values(), *(value for name in ENGINE_SECRETS for value in _engines(texts.get(name, "")))]
    if not stack.secret_variables:
        return values
    try:
        _, environment = docker.web_settings()
    except EngineError:
        # Compose refuses the file, and then started no container that could tell.
        return values
    return values + [str(environment[name]) for name in stack.secret_variables if environment.get(name)]


def _engines(text: str) -> list[str]:
    """The values in a file that the engine alone reads."""
    try:
        told = json.loads(text or "{}")
        single = (str(told.get(name) or "") for name in ("ssh_key", "password"))
        return [*map(str, (told.get("environment") or {}).values()), *single]
    except (ValueError, AttributeError):
        return []
