"""The one reader of the process environment, on top of environs.

Each variable NAME may instead be given as NAME_FILE, the path of a file that holds the value (a Docker secret). Giving
both is an error, since one of them would be ignored silently.
"""

import os
import re
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from environs import EnvError, FileAwareEnv


class _Reader(FileAwareEnv):
    """environs, with `<NAME>_FILE` made strict."""

    def _get_value(self, env_key: str, default: Any) -> Any:
        file_key = f"{env_key}_FILE"
        path = os.environ.get(file_key, "")
        if not path:
            return super()._get_value(env_key, default)
        if env_key in os.environ:
            raise ImproperlyConfigured(f"Both {env_key} and {file_key} are set. Remove one of them.")
        try:
            # newline="" keeps every byte; one line end is taken off because editors and `echo` add it.
            with Path(path).open(encoding="utf-8", newline="") as file:
                return file.read().removesuffix("\n")
        except OSError as error:
            raise ImproperlyConfigured(f"{file_key} names {path}, which cannot be read: {error.strerror}.") from error


_reader = _Reader(eager=True)


def _missing(name: str, what: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"Set {name} (or {name}_FILE): {what}.")


def _given(name: str) -> bool:
    return name in os.environ or bool(os.environ.get(f"{name}_FILE"))


def text(name: str, default: str | None = None) -> str:
    """Read a string.

    Args:
        name: the variable.
        default: the value when it is not set; None makes it required, and then it may not be empty either.

    Returns:
        The value, unchanged.

    Raises:
        ImproperlyConfigured: it is required and missing or empty, or its file cannot be read.
    """
    value: str = _reader.str(name, "" if default is None else default)
    if default is None and not value:
        raise _missing(name, "it is required and has no default")
    return value


def boolean(name: str, default: bool) -> bool:
    """Read a boolean (true/false, yes/no, on/off, 1/0 in any case).

    Raises:
        ImproperlyConfigured: the value is anything else; a typo never means false.
    """
    if not _given(name):
        return default
    try:
        return bool(_reader.bool(name))
    except EnvError as error:
        raise ImproperlyConfigured(
            f"{name} must be true or false, but is {text(name, '')!r}. Write {name}=true or {name}=false."
        ) from error


def integer(name: str, default: int, *, minimum: int, maximum: int) -> int:
    """Read a whole number within [minimum, maximum].

    Raises:
        ImproperlyConfigured: the value is no whole number or out of range.
    """
    if not _given(name):
        return default
    try:
        value = int(_reader.int(name))
    except EnvError as error:
        raise ImproperlyConfigured(f"{name} must be a whole number, but is {text(name, '')!r}.") from error
    if not minimum <= value <= maximum:
        raise ImproperlyConfigured(f"{name} must be between {minimum} and {maximum}, but is {value}.")
    return value


def words(name: str) -> list[str]:
    """Read a comma-separated list; blanks around items and empty items are dropped, so nothing set is []."""
    return [item.strip() for item in text(name, "").split(",") if item.strip()]


def choice(name: str, allowed: tuple[str, ...], default: str | None = None) -> str:
    """Read one of the allowed values.

    Raises:
        ImproperlyConfigured: missing without a default, or not one of them; the message lists them.
    """
    value = text(name, default or "")
    if value not in allowed:
        found = f"but is {value!r}" if value else "but is not set"
        raise ImproperlyConfigured(f"{name} must be one of {', '.join(allowed)}, {found}.")
    return value


def rate(name: str, default: str) -> str:
    """Read an allowance such as 10/min: a number of calls per sec, min, hour or day.

    Raises:
        ImproperlyConfigured: it is written in another way.
    """
    value = text(name, default)
    if not re.fullmatch(r"[1-9][0-9]*/(sec|min|hour|day)", value):
        raise ImproperlyConfigured(f"{name} must be written as 10/min (or /sec, /hour, /day), but is {value!r}.")
    return value
