"""Questions to the Docker engine by its own HTTP, over its socket; reading only.

Its client answers the same in fifty times as long: it is a large program that is started for each question. Where the
client would ask another engine, or the socket does not let us in, nothing is answered here, and the client is asked.
"""

from __future__ import annotations

import json
import os
import socket
from http import HTTPStatus
from pathlib import Path
from typing import Any, Optional
from urllib.parse import quote, urlencode

SOCKET = "/var/run/docker.sock"
# Short: whoever asks falls back on the client, which waits longer and says what is wrong.
ANSWER_SECONDS = 10.0


def get(path: str, **query: str) -> Optional[Any]:
    """Ask the engine that the client would ask.

    Args:
        path: of its API, such as ``/containers/json``.
        query: what follows the question mark.

    Returns:
        Its answer; None where it has to be asked by its client.
    """
    status, text = _ask(path, query)
    try:
        return json.loads(text) if status == HTTPStatus.OK else None
    except ValueError:
        return None


def image_id(reference: str) -> Optional[str]:
    """Give the id of an image; empty where the engine has none of that name, None where its client has to be asked."""
    told = image(reference)
    return None if told is None else str(told.get("Id", ""))


def image(reference: str) -> Optional[dict[str, Any]]:
    """Describe an image; empty where the engine has none of that name, None where its client has to be asked."""
    status, text = _ask(f"/images/{quote(reference, safe='/:@')}/json", {})
    if status == HTTPStatus.NOT_FOUND:
        return {}
    try:
        told: dict[str, Any] = json.loads(text) if status == HTTPStatus.OK else {}
    except ValueError:
        told = {}
    return told or None


def there(path: str) -> Optional[bool]:
    """Tell whether the engine has what a path of its API names; None where its client has to be asked."""
    status, _ = _ask(path, {})
    return status == HTTPStatus.OK if status in (HTTPStatus.OK, HTTPStatus.NOT_FOUND) else None


def config_folder() -> Path:
    """Where the client keeps the user's settings and plugins."""
    return Path(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"))  # noqa: PTH111 - never fails


def _ask(path: str, query: dict[str, str]) -> tuple[int, bytes]:
    """Ask by HTTP 1.0, whose answer ends with the connection: http.client takes longer to load than all questions."""
    place = _place()
    if not place:
        return 0, b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(place)
            wanted = f"{path}?{urlencode(query)}" if query else path
            connection.sendall(f"GET {wanted} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode("ascii"))
            with connection.makefile("rb") as answer:
                head, _, text = answer.read().partition(b"\r\n\r\n")
        # Of an answer that was cut off the JSON is none.
        return int(head.split(maxsplit=2)[1]), text
    except (OSError, ValueError, IndexError):
        return 0, b""


def builder() -> str:
    """Name the builder of the engine that the client would ask; one of the user's own may sit elsewhere."""
    return "default" if os.environ.get("DOCKER_HOST") else _context() or "default"


def _place() -> str:
    """The socket that the client would use; empty where it would not use one of this machine."""
    named = os.environ.get("DOCKER_HOST", "")
    if named:
        return named[len("unix://") :] if named.startswith("unix://") else ""
    return SOCKET if _context() in ("", "default") else ""


def has_setting(name: str) -> bool:
    """Tell whether the user's settings of the client say something under a name."""
    return bool((_settings() or {}).get(name))


def _context() -> str:
    """The client's context: one that was chosen by name may lead to another engine."""
    named = os.environ.get("DOCKER_CONTEXT", "")
    if named:
        return named
    settings = _settings()
    # What it cannot read, its client says what is wrong with.
    return "unreadable" if settings is None else str(settings.get("currentContext") or "")


def _settings() -> Optional[dict[str, Any]]:
    """The user's settings of the client; None where they cannot be read."""
    try:
        told = json.loads((config_folder() / "config.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) else None
