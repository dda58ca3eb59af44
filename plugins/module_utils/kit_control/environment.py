"""Which environment a call is about, and where its files on the control node lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kit_control.errors import KitError


def environment_name(inventory_sources: Sequence[str]) -> str:
    """Name the environment: the folder of the first inventory.

    Args:
        inventory_sources: what was given as ``-i``, in order.

    Returns:
        ``prod`` for ``inventories/prod``, ``inventories/prod/`` and ``inventories/prod/hosts.yml``.

    Raises:
        KitError: no inventory was given, or it is no folder of ours.
    """
    first = Path(str(inventory_sources[0])) if inventory_sources else Path()
    folder = first.parent if first.is_file() else first
    if not folder.name or not (folder / "group_vars").is_dir():
        raise KitError(
            "inventory",
            f"The first inventory ({first}) is not the folder of an environment.",
            "ansible-playbook -i inventories/prod … (further inventories follow with a second -i)",
        )
    return folder.name
