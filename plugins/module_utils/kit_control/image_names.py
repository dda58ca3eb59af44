"""What images are called where they run, and which of them a stack runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kit_engine.base_images.recipe import REPOSITORY

_DIGITS = 12


def delivered(name: str, ref: str) -> str:
    """Name an image on a host that did not pull it itself.

    Args:
        name: ``app``, ``postgres`` and so on.
        ref: its reference where it was made or pulled.

    Returns:
        The reference, or in place of a registry's digest, which no engine knows without that registry, a tag with the
        digest's first digits.
    """
    _, at, digest = ref.partition("@sha256:")
    return f"{REPOSITORY}/{name}:registry-{digest[:_DIGITS]}" if at else ref


def references(bases: Mapping[str, Mapping[str, Any]], app: Mapping[str, Any], delivery: str) -> dict[str, str]:
    """Give the reference of each image by its name, as the Compose file names it.

    Args:
        bases: facts of the base images, by name.
        app: facts of the app's image; may be empty.
        delivery: how images come to the host.
    """
    refs = {name: str(facts["ref"]) for name, facts in {**bases, "app": app}.items() if facts}
    return refs if delivery == "build" else {name: delivered(name, ref) for name, ref in refs.items()}


def stand(bases: Mapping[str, Mapping[str, Any]], refs: Sequence[str], standing: Mapping[str, str]) -> bool:
    """Tell whether a host has every image that its stack runs.

    Args:
        bases: facts of the base images, by name; one without an id was never brought to this machine, and its record,
            which releases take along, is still to be written.
        refs: references of those that the stack runs; each carries a hash of its content.
        standing: id by reference on the host; empty where it is lacking.
    """
    used = [facts for name, facts in bases.items() if name == "python" or delivered(name, str(facts["ref"])) in refs]
    return bool(refs) and all("id" in facts for facts in used) and all(standing.get(ref) for ref in refs)
