"""Role inputs as Python reads them: the role's argument specification says which there are and what they may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from kit_control.errors import KitError
from kit_control.settings import Settings

PREFIX = "release_bundle_"
SPECS = Path("roles/release_bundle/meta/argument_specs.yml")


def read(root: Path, env: str, names: Mapping[str, Any], value: Callable[[str], Any]) -> Settings:
    """Take the inputs of role release_bundle, checked and converted by its argument specification.

    Args:
        root: the kit's folder.
        env: name of the environment, for the advice.
        names: mapping whose keys are the variables that exist.
        value: gives a variable's value by its name.

    Returns:
        The inputs by their names without the role's prefix.

    Raises:
        KitError: a value has the wrong type, or is none of the choices; the message lists all.
    """
    specs = yaml.safe_load((root / SPECS).read_text(encoding="utf-8"))
    options: dict[str, Any] = specs["argument_specs"]["main"]["options"]
    checked = ArgumentSpecValidator(options).validate({name: value(name) for name in options if name in names})
    if checked.error_messages:
        raise KitError(
            "inventory",
            "The inventory has mistakes:\n" + "\n".join(f"  - {line}" for line in checked.error_messages),
            f"Edit inventories/{env}/group_vars/all/",
        )
    return Settings({name.removeprefix(PREFIX): v for name, v in checked.validated_parameters.items()})
