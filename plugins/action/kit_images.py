"""Bring the images that a host's stack runs from the control node, where the host lacks them; nothing else is sent."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from kit_control import image_registry, image_store, image_transfer
from kit_control.action import KitAction
from kit_control.image_pieces import Pieces
from kit_engine.image_registry import Credential


class ActionModule(KitAction):
    """Arguments: ``root``, ``python`` (as of kit_engine), ``images`` (``ref`` on the host and ``source`` here of each),
    ``standing`` (what the host told of them in preflight), ``cache`` (folder for pieces), ``min_free_bytes``,
    ``become`` (of `docker` on this machine), ``delivery``, ``registry``, ``user``, ``password``.
    """

    _VALID_ARGS = frozenset(
        {
            "root", "python", "images", "standing", "cache", "min_free_bytes", "become", "delivery", "registry",
            "user", "password",
        }
    )  # fmt: skip

    def work(self) -> dict[str, Any]:
        """Compare, then deliver; see the module's docstring."""
        given = self._task.args
        host = image_transfer.Host(self, Path(given["root"]), str(given["python"]))
        refs = [str(image["ref"]) for image in given["images"]]
        standing = given["standing"] or {}
        # Preflight knew no more than the plan where an image was made just now.
        if not set(refs) <= set(standing.get("images", {})):
            standing = image_transfer.ask(host, refs)
        lacking = [image for image in given["images"] if not standing["images"][image["ref"]]]
        if not lacking:
            return {"changed": False, "delivered": [], "sent_bytes": 0}
        names = [str(image["ref"]) for image in lacking]
        if self._task.check_mode:
            return {"changed": True, "delivered": names, "message": f"would be delivered: {', '.join(names)}"}
        sudo = ["sudo", "--non-interactive"] if given["become"] else []
        local = image_transfer.look_up(lacking, sudo)
        cache, free = Path(given["cache"]), int(given["min_free_bytes"])
        if given["delivery"] == "registry":
            credential = Credential(str(given["registry"]), str(given["user"] or ""), str(given["password"] or ""))
            told = image_registry.deliver(host, local, credential, cache / "pushed", sudo, free)
        else:
            told = image_transfer.transfer(host, local, standing, Pieces(cache, sudo, image_store.find(sudo)), free)
        return {"changed": True, "delivered": names, "sent_bytes": 0, **told}
