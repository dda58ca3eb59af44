"""The small language of message templates: `{{ name }}`, and nothing else.

Django's own template language is not offered: who may write a mail could then read settings through objects, include
files, or loop for ever. Here a template is text with a fixed set of words in it, checked when it is saved.
"""

import re
from collections.abc import Mapping

from django.core.exceptions import ValidationError
from django.utils.html import escape

PLACEHOLDERS = ("email", "first_name", "last_name", "unsubscribe_url")

_PATTERN = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")


def check_placeholders(source: str) -> None:
    """Refuse unknown placeholders and lonely braces.

    Raises:
        ValidationError: names each unknown placeholder and lists the known ones.
    """
    unknown = sorted({name for name in _PATTERN.findall(source) if name not in PLACEHOLDERS})
    if unknown:
        raise ValidationError(
            f"Unknown placeholder: {', '.join(unknown)}. Known are {', '.join(PLACEHOLDERS)}.",
            code="unknown_placeholder",
        )
    rest = _PATTERN.sub("", source)
    if "{{" in rest or "}}" in rest:
        raise ValidationError("A placeholder is not closed: write {{ first_name }}.", code="open_placeholder")


def fill(source: str, values: Mapping[str, str], *, html: bool = False) -> str:
    """Replace the placeholders.

    Args:
        source: the text; it has passed check_placeholders.
        values: a value for each of PLACEHOLDERS.
        html: escape the values for HTML.

    Raises:
        KeyError: a placeholder has no value.
    """

    def value(match: re.Match[str]) -> str:
        found = values[match.group(1)]
        return escape(found) if html else found

    return _PATTERN.sub(value, source)
