"""When a host needs no image: it has every one that its stack runs, and this machine knows them."""

from __future__ import annotations

from typing import Any

import pytest
from kit_control import image_names

BASES = {
    "python": {"ref": "kit-base/python:1", "id": "sha256:1"},
    "nginx": {"ref": "kit-base/nginx:1", "id": "sha256:2"},
    "redis": {"ref": "kit-base/redis:1"},
}
REFS = ["site:1", "kit-base/nginx:1"]
THERE = {"site:1": "sha256:3", "kit-base/nginx:1": "sha256:2"}


@pytest.mark.parametrize(
    ("bases", "refs", "there", "stands"),
    [
        (BASES, REFS, THERE, True),
        (BASES, REFS, {**THERE, "kit-base/nginx:1": ""}, False),
        (BASES, REFS, {}, False),
        ({**BASES, "python": {"ref": "kit-base/python:1"}}, REFS, THERE, False),
        (BASES, [*REFS, "kit-base/redis:1"], {**THERE, "kit-base/redis:1": "sha256:4"}, False),
        (BASES, [], {}, False),
    ],
    ids=["all there", "one lacking", "none asked for", "python unknown here", "redis unknown here", "no stack"],
)
def test_a_host_with_all_images_needs_none(
    bases: dict[str, dict[str, Any]], refs: list[str], there: dict[str, str], stands: bool
) -> None:
    assert image_names.stand(bases, refs, there) is stands
