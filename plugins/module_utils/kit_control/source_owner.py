"""Who a source that is mounted writable belongs to, and so who the app runs as."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from kit_control.settings import APP_UID, Owner, Settings


def owner_of_source(source: Path, settings: Settings, caller: int, environ: Mapping[str, str]) -> Owner | None:
    """Choose the user that the app writes its source as, so that no file changes hands.

    Args:
        source: folder of the project.
        settings: inputs of role release_bundle.
        caller: number of the user who deploys.
        environ: that user's environment.

    Returns:
        The caller; for root the one who called sudo, else the folder's owner; where that is root too, the image's own
        user, who may write the manifest's writable paths only. None where the source is not mounted writable.
    """
    if settings["source"] != "read_write":
        return None
    if caller != 0:
        return Owner(caller, os.getgid())
    if environ.get("SUDO_UID", "0") != "0":
        return Owner(int(environ["SUDO_UID"]), int(environ["SUDO_GID"]))
    owner = source.stat()
    return Owner(owner.st_uid, owner.st_gid) if owner.st_uid else Owner(APP_UID, APP_UID)
