"""Write a .env file that Compose and python-dotenv read back byte for byte.

Both understand double quotes with backslash escapes, but they differ on a literal dollar: Compose writes it ``\\$``,
which python-dotenv leaves as it is. Both expand a name that the file itself has defined, so a file that needs a dollar
begins by defining one, and every dollar is written as that name.

Sources: compose-go ``dotenv/parser.go`` and ``dotenv/godotenv.go``, python-dotenv ``parser.py`` and ``variables.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from kit_control.errors import KitError

DOLLAR = "KIT_DOLLAR"
# Escapes that both readers decode alike; every other character stands as it is.
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "$": f"${{{DOLLAR}}}"}
_SPECIAL = re.compile("[" + re.escape("".join(_ESCAPES)) + "]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def encode(values: Mapping[str, str], meanings: Mapping[str, str] | None = None) -> str:
    """Write variables as a .env file.

    Args:
        values: value by name, in the order of the file.
        meanings: one line on each variable, written above it.

    Returns:
        The file's text.

    Raises:
        KitError: a name is none of a variable's, or a value holds a NUL character, which no process environment can.
    """
    lines = []
    for name, value in values.items():
        if not _NAME.match(name) or name == DOLLAR:
            raise KitError("env", f"{name!r} is no name for an environment variable.", "use letters, digits and _")
        if "\0" in value:
            raise KitError("env", f"{name} holds a NUL character, which no environment variable can.", "remove it")
        for line in (meanings or {}).get(name, "").splitlines():
            lines.append(f"# {line}")
        lines.append(f'{name}="{_SPECIAL.sub(lambda match: _ESCAPES[match[0]], value)}"')
    if any("$" in value for value in values.values()):
        lines.insert(0, f"{DOLLAR}='$'")
    return "".join(f"{line}\n" for line in lines)
