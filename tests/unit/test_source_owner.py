"""Files in a mounted source keep belonging to the one who works on them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from kit_control.settings import APP_UID, Owner, Settings
from kit_control.source_owner import owner_of_source

WRITABLE = Settings({"source": "read_write"})


@pytest.mark.parametrize(
    ("caller", "environ", "folder", "expected"),
    [
        (1000, {}, 0, Owner(1000, os.getgid())),
        (0, {"SUDO_UID": "1001", "SUDO_GID": "1002"}, 0, Owner(1001, 1002)),
        (0, {"SUDO_UID": "0", "SUDO_GID": "0"}, 1003, Owner(1003, 1004)),
        (0, {}, 1003, Owner(1003, 1004)),
        (0, {}, 0, Owner(APP_UID, APP_UID)),
    ],
    ids=["the caller", "who called sudo", "root's own sudo", "the folder's owner", "the image's user"],
)
def test_the_first_that_is_not_root(
    caller: int, environ: dict[str, str], folder: int, expected: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = os.stat_result((0o40755, 1, 1, 1, folder, folder + 1, 0, 0, 0, 0))
    monkeypatch.setattr(Path, "stat", lambda *_a, **_k: told)
    assert owner_of_source(Path("/project"), WRITABLE, caller, environ) == expected


def test_a_source_that_is_not_mounted_writable_has_none() -> None:
    assert owner_of_source(Path("/project"), Settings({"source": "image"}), 1000, {}) is None
