"""The record of what base images an environment runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kit_engine.errors import EngineError

# A record before anything was decided.
NOTHING: dict[str, Any] = {"schema": 1, "source": "", "images": {}}


def read_record(path: Path) -> dict[str, Any]:
    """Read what was decided before; an absent file means nothing was.

    Raises:
        EngineError: the file is damaged.
    """
    if not path.is_file():
        return NOTHING
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {"schema": 1, "source": str(record["source"]), "images": dict(record["images"])}
    except (ValueError, KeyError, TypeError):
        remedy = f"restore it; or remove it (rm {path}), and name the source: base_images_source: registry or packages"
        raise EngineError("base_images", f"{path} is damaged.", remedy) from None
