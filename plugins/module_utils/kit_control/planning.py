"""What the engine needs for a plan: the bundle that was never written, and what the new image's settings need."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from kit_engine.synced_source import FOLDER as SOURCE

from kit_control import app_image, bundle
from kit_control.action import Inputs
from kit_control.context import Stack
from kit_control.release_archive import Entry
from kit_control.settings import LOG_DIR, MEDIA_ROOT, STATIC_ROOT

# What the settings of a project may write to when they are imported.
SCRATCH = (LOG_DIR, MEDIA_ROOT, STATIC_ROOT)
# As long as the longest key that a manifest asks for.
_STAND_IN_LENGTH = 96


def files_of(given: Inputs, rendered: Iterable[bundle.File]) -> dict[str, Entry]:
    """Give a bundle as the host would receive it, in memory: a plan leaves no secret on this machine's disk either.

    Args:
        given: the project in its environment.
        rendered: the bundle's files.

    Returns:
        Content and mode by path inside the bundle.

    Raises:
        KitError: a file of the project cannot be read.
    """
    files = {file.path: (file.content, file.mode) for file in rendered}
    if given.settings["source"] == "read_only":
        source = app_image.project_files(given.project, given.root)
        files.update({f"{SOURCE}/{name}": entry for name, entry in source.items()})
    return files


def secret_names(data: Mapping[str, Any]) -> list[str]:
    """Name the variables of a manifest whose values are never shown."""
    return sorted(name for name, variable in data["variables"].items() if variable["secret"])


def environment(data: Mapping[str, Any], stack: Stack) -> dict[str, str]:
    """Give what the project's settings need to be imported where no server is asked.

    Args:
        data: the manifest's content.
        stack: its values in the environment.

    Returns:
        The values as deployed; instead of each secret the throw-away value of the build, else one made up.
    """
    build = data["build"]["environment"]
    given = dict(stack.environment)
    for name in secret_names(data):
        there = name in given or given.pop(f"{name}_FILE", None) is not None
        if there:
            is_url = data["variables"][name]["type"] == "url"
            made_up = "https://stand-in.invalid" if is_url else secrets.token_urlsafe(_STAND_IN_LENGTH)
            given[name] = str(build.get(name, made_up))
    return given
