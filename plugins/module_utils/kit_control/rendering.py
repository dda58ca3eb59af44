"""From a project and its inventory to what is printed, with the secrets that local makes for itself."""

from __future__ import annotations

import os

from kit_control import manifest, secret_store
from kit_control.action import Inputs
from kit_control.context import Stack, build
from kit_control.settings import Settings
from kit_control.source_owner import owner_of_source
from kit_control.variables import needed_secrets


def stack_of(given: Inputs, *, writes: bool) -> tuple[Stack, Settings, list[str]]:
    """Compute what a bundle is printed from.

    Args:
        given: the project in its environment.
        writes: whether secrets that local lacks are made for good; else values of this call stand in for them.

    Returns:
        The stack, the settings with every secret's value, and the names of the secrets that were made.

    Raises:
        KitError: a service has no image.
    """
    project, settings = given.project, given.settings
    made: list[str] = []
    if settings["secrets_origin"] == "generated":
        settings, made = _with_generated_secrets(project, settings, given, writes)
    owner = owner_of_source(project.source, settings, os.getuid(), os.environ)
    return build(project, settings, given.env, images_of(settings), owner), settings, made


def images_of(settings: Settings) -> dict[str, str]:
    """Give the reference of each image that is known."""
    return {name: str(ref) for name, ref in settings["images"].items() if ref}


def _with_generated_secrets(
    project: manifest.Manifest, settings: Settings, given: Inputs, writes: bool
) -> tuple[Settings, list[str]]:
    needed = needed_secrets(project.data, settings)
    store = secret_store.PlainStore(given.folder / secret_store.LOCAL_FILE)
    made = secret_store.fill(store, needed, writes)
    # In check mode nothing was written: the values that would be made stand in for them.
    values = secret_store.filled(store.read(), needed)
    return Settings({**settings.values, "secret_values": {**values, **settings["secret_values"]}}), made
