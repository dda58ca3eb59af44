"""Replace one secret by a new random value, and say what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kit_control import secret_store
from kit_control.errors import KitError
from kit_control.settings import Settings
from kit_control.variables import as_text, database_password_name, needed_secrets

# Earlier values that are still accepted: the app tries each of them on everything that was signed.
KEPT = 3
CACHE_PASSWORD = "REDIS_PASSWORD"  # noqa: S105 - the name of one


@dataclass(frozen=True)
class Rotation:
    """All secrets of the environment with the new value among them, and what the user is told; never a value."""

    values: dict[str, str]
    message: str


def rotate(store: secret_store.Store, name: str, data: Mapping[str, Any], settings: Settings, env: str) -> Rotation:
    """Work out what a rotation comes to; nothing is written.

    Args:
        store: where the environment's secrets lie.
        name: the secret to replace.
        data: the manifest's content.
        settings: inputs of role release_bundle.
        env: name of the environment, for the advice.

    Returns:
        The values and what to say.

    Raises:
        KitError: the kit does not make this secret, or its value comes from elsewhere.
    """
    needed = needed_secrets(data, settings)
    values = store.read()
    make = "make {}" if env == "local" else f"make {{}} ENV={env}"
    if name not in needed:
        raise _refusal(store, name, data, settings, make)
    if name not in values:
        raise KitError("secrets", f"{name} has no value yet in {store.path}.", make.format("secrets"))
    target = str(data["variables"].get(name, {}).get("rotate_to", ""))
    for one in (name, target):
        given = settings["secret_values"].get(one)
        if given is not None and as_text(given) != values.get(one):
            raise KitError(
                "secrets",
                f"{env} takes {one} from another place than {store.path}, so a new value there would change nothing.",
                f"take {one} out of the inventory's other files, or change it there by hand",
            )
    changes = {name: secret_store.random_value(needed[name])}
    if target:
        if "," in values[name]:
            raise KitError(
                "secrets",
                f"The value of {name} holds a comma, which separates the values of {target}: it cannot be kept there.",
                f"write a new value by hand (whatever relied on the earlier one ends): {store.edit}",
            )
        earlier = [values[name], *(item.strip() for item in values.get(target, "").split(",") if item.strip())]
        changes[target] = ",".join(list(dict.fromkeys(earlier))[:KEPT])
    told = [f"{name} has a new value.", *_follows(name, target, data), f"Next: {make.format('deploy')}"]
    return Rotation({**values, **changes}, "\n".join(told))


def _follows(name: str, target: str, data: Mapping[str, Any]) -> list[str]:
    if target:
        return [f"Its earlier one is still accepted: {target} keeps the last {KEPT}."]
    if name == database_password_name(data):
        return ["The next deploy sets it in the database too, whose container and rows stay."]
    if name == CACHE_PASSWORD:
        return ["The next deploy makes redis anew with it; the database and nginx stay as they are."]
    return ["Whatever relied on the earlier one ends with the next deploy."]


def _refusal(store: secret_store.Store, name: str, data: Mapping[str, Any], settings: Settings, make: str) -> KitError:
    needed = needed_secrets(data, settings)
    variable = data["variables"].get(name, {})
    databases = name == database_password_name(data) and settings["database"] == "external"
    caches = name == CACHE_PASSWORD and settings["cache"] == "external"
    if databases or caches:
        server = "database" if databases else "Redis"
        problem = f"{name} belongs to a {server} server that this kit does not run; nothing was changed."
        return KitError("secrets", problem, f"change it at its provider, then write it down here: {store.edit}")
    if variable.get("from") == "cache.url":
        problem = f"{name} is no value of its own: it is made from {CACHE_PASSWORD}."
        return KitError("secrets", problem, make.format("secrets") + f" ROTATE={CACHE_PASSWORD}")
    if variable.get("secret"):
        problem = f"{name} cannot be made at random, only you know it; nothing was changed."
        return KitError("secrets", problem, f"write the new value: {store.edit}")
    return KitError(
        "secrets",
        f"There is no secret {name!r} to replace; there are: {', '.join(sorted(needed)) or 'none'}.",
        make.format("secrets") + f" ROTATE={min(needed, default='NAME')}",
    )
