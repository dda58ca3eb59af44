"""Read YAML with libyaml where PyYAML was built with it: the same content, in a tenth of the time."""

from __future__ import annotations

from typing import Any

import yaml

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(text: str) -> Any:
    """Read a text as plain data.

    Args:
        text: one YAML document.

    Raises:
        yaml.YAMLError: it is none.
    """
    return yaml.load(text, Loader=Loader)  # noqa: S506 - one of the two safe loaders


def compose(text: str) -> yaml.Node | None:
    """Read a text as nodes, which know their place; None for an empty one.

    Args:
        text: one YAML document.

    Raises:
        yaml.YAMLError: it is none.
    """
    node: yaml.Node | None = yaml.compose(text, Loader=Loader)
    return node
