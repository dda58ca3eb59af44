"""Ansible's own large YAML files, which it reads at each start: parsed once, then remembered (memo.py)."""

from __future__ import annotations

import os
from typing import Any

import yaml

from kit_control import memo

# Its settings; by this name alone, since the same loader reads what people wrote, secrets among it.
SETTINGS = "/ansible/config/base.yml"
_parse = yaml.load


def load(stream: Any, Loader: Any) -> Any:  # noqa: N803 - PyYAML's own name for it
    """Parse as ``yaml.load`` does.

    Args:
        stream: a file, or a text.
        Loader: as PyYAML has them. The one that makes nothing but texts reads Ansible's routing tables alone.
    """
    name = getattr(stream, "name", "")
    settings = isinstance(name, (str, bytes)) and os.fsdecode(name).endswith(SETTINGS)
    if not settings and Loader is not getattr(yaml, "CBaseLoader", None):
        return _parse(stream, Loader=Loader)
    content = stream.read() if hasattr(stream, "read") else stream
    text = content.encode() if isinstance(content, str) else content
    return memo.remembered(Loader.__name__, text, lambda: _parse(content, Loader=Loader))


def remember() -> None:
    """Have Ansible, once it is imported, parse by :func:`load`."""
    yaml.load = load
