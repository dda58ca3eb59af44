"""Docker's own reading of .dockerignore files, of the package `docker`, without the client that it loads on the way.

That client takes a tenth of a second to load, and a deploy needs none: the engine on the host asks Docker.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import cast

_PACKAGES = ("docker", "docker.utils")


def _exclude_paths() -> Callable[[str, list[str]], set[str]]:
    spec = find_spec(_PACKAGES[0])
    if spec is None or not spec.submodule_search_locations or _PACKAGES[0] in sys.modules:
        return cast(Callable[[str, list[str]], set[str]], import_module("docker.utils.build").exclude_paths)
    folder = Path(spec.submodule_search_locations[0])
    try:
        for name in _PACKAGES:
            bare = ModuleType(name)
            bare.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
            sys.modules[name] = bare
        return cast(Callable[[str, list[str]], set[str]], import_module("docker.utils.build").exclude_paths)
    finally:
        # Whoever wants the client gets it whole.
        for name in [one for one in sys.modules if one.partition(".")[0] == _PACKAGES[0]]:
            del sys.modules[name]


exclude_paths = _exclude_paths()
"""Gives the paths below a folder that no pattern leaves out; arguments: folder, patterns."""
