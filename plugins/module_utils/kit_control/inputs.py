"""Role inputs as Python reads them: the role's argument specification says which there are and what they may be.

A deploy judges those of all its roles here, at once and before any host is touched. Ansible's own task for it comes as
late as its role, and takes as long as a task that works.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleUndefinedVariable
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from kit_control import yaml_text
from kit_control.errors import KitError
from kit_control.settings import Settings

ROLE = "release_bundle"
# The others that a deploy goes through.
OTHER_ROLES = ("docker_host", "base_images", "app_image", "tls", "release", "smoke")

WIRING = Path("playbooks/group_vars/all/kit.yml")


@cache
def specified(root: Path, role: str) -> dict[str, Any]:
    """Give a role's argument specification, option by name; read once, as the kit's files stay what they are."""
    specs = yaml_text.load((root / f"roles/{role}/meta/argument_specs.yml").read_text(encoding="utf-8"))
    options: dict[str, Any] = specs["argument_specs"]["main"]["options"]
    return options


@cache
def _content(path: Path) -> dict[str, Any]:
    """Give a file of variables as they stand there, if there is one: templates are not filled in."""
    content: dict[str, Any] = yaml_text.load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


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
    options = specified(root, ROLE)
    checked = ArgumentSpecValidator(options).validate({name: value(name) for name in options if name in names})
    _refuse(list(checked.error_messages), env)
    return Settings({name.removeprefix(f"{ROLE}_"): v for name, v in checked.validated_parameters.items()})


def judge_others(root: Path, env: str, names: Mapping[str, Any], value: Callable[[str], Any]) -> None:
    """Judge the inputs of the other roles by their argument specifications.

    Args:
        root: the kit's folder.
        env: name of the environment, for the advice.
        names: mapping whose keys are the variables that exist.
        value: gives a variable's value by its name; one that depends on what a host will tell is passed over.

    Raises:
        KitError: a value has the wrong type, or is none of the choices; the message lists all.
    """
    mistakes: list[str] = []
    for role in OTHER_ROLES:
        options = specified(root, role)
        mine, own = {}, (_content(root / f"roles/{role}/defaults/main.yml"), _content(root / WIRING))
        for name in options:
            # The kit's own values are right, and take their time to be filled in.
            if name in names and not any(name in ours and names[name] == ours[name] for ours in own):
                with suppress(AnsibleUndefinedVariable):
                    mine[name] = value(name)
        checked = ArgumentSpecValidator({name: options[name] for name in mine}).validate(mine)
        mistakes += checked.error_messages
    _refuse(mistakes, env)


def _refuse(mistakes: list[str], env: str) -> None:
    if mistakes:
        raise KitError(
            "inventory",
            "The inventory has mistakes:\n" + "\n".join(f"  - {line}" for line in mistakes),
            f"Edit inventories/{env}/group_vars/all/",
        )
