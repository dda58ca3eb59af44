"""Who is let in during maintenance."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit_engine import maintenance
from kit_engine.errors import UsageError


def test_addresses_and_networks_are_written_for_nginx() -> None:
    found = maintenance.networks("192.0.2.7, 2001:db8::/32 192.0.2.7,198.51.100.0/24")
    assert maintenance.visitors(found, 60) == (
        "geo $kit_retry_after {\n    default 60;\n"
        '    192.0.2.7/32 "";\n    2001:db8::/32 "";\n    198.51.100.0/24 "";\n}\n'
    )
    assert maintenance.networks("") == []


@pytest.mark.parametrize("word", ["192.0.2.300", "www.example.com", "192.0.2.7/24", "0.0.0.0/0", "::/0", "1;}"])
def test_what_is_no_address_is_refused_by_name(word: str) -> None:
    with pytest.raises(UsageError) as caught:
        maintenance.networks(f"192.0.2.7,{word}")
    assert word in caught.value.problem
    assert "nothing was changed" in caught.value.problem


def test_a_file_that_somebody_else_made_counts(tmp_path: Path) -> None:
    assert maintenance.state(tmp_path) is None
    folder = tmp_path / "shared/nginx/maintenance"
    folder.mkdir(parents=True)
    for text in ("", "[1]", '{"since": "2026-01-01T00:00:00Z"}'):
        (folder / "on").write_text(text)
        told = maintenance.state(tmp_path)
        assert told
        assert (told["allow"], told["retry_after_seconds"]) == ([], 300)
        assert maintenance.line(told).startswith("on")
