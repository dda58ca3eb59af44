"""How hosts are divided where they are led to a release some at a time."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible.plugins.loader import filter_loader
from support.kit import ROOT

HOSTS = ["a", "b", "c", "d", "e"]


def batches(size: Any) -> list[int]:
    """How many hosts each batch has."""
    filter_loader.add_directory(str(ROOT / "plugins/filter"))
    found = filter_loader.get("kit_batches").j2_function(HOSTS, size)
    assert [name for batch in found for name in batch] == HOSTS
    return [len(batch) for batch in found]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("100%", [5]),
        (1, [1, 1, 1, 1, 1]),
        ("2", [2, 2, 1]),
        ("50%", [2, 2, 1]),
        ("1%", [1, 1, 1, 1, 1]),
        (50, [5]),
    ],
)
def test_numbers_and_shares(size: Any, expected: list[int]) -> None:
    assert batches(size) == expected


@pytest.mark.parametrize("size", [0, "0%", "-1", "two", "", "1.5"])
def test_what_stands_for_no_number_is_refused_with_an_example(size: Any) -> None:
    with pytest.raises(AnsibleFilterError, match=r"stands for no number of hosts(.|\n)*Next: .*25%"):
        batches(size)
