"""A few cells of the kill matrix, others for each commit; `make test-faults` goes through all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import checkout
from testbed.fixtures import turn

from faults.__main__ import CASES

pytestmark = [pytest.mark.host, pytest.mark.slow]

# Each takes half a minute.
EACH, SLICE = 37, "slice of the kill matrix"


def test_what_was_ended_is_recovered(tmp_path: Path) -> None:
    kit = checkout.copy(tmp_path / "checkout")
    first = turn(EACH, SLICE)
    kit.type(f"make test-faults ARGS='--slice {first + 1}/{EACH}'", {}, limit=900)
    told = json.loads((kit.path / "build/faults/results.json").read_text())
    assert {name for name, outcome in told.items() if outcome["ok"]} == {case.name for case in CASES[first::EACH]}
