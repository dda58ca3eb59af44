"""How the page of faults is written."""

from __future__ import annotations

from pathlib import Path

import faults
import pytest
from faults.backups import Case, cases, table

REPORT = """<testsuites><testsuite>
<testcase classname="tests.integration.test_restore" name="test_left_out" time="0"><skipped/></testcase>
<testcase classname="tests.integration.test_backup" name="test_a_dump_that_is_cut[99]" time="1.4"/>
<testcase classname="tests.integration.test_backup" name="test_a_full_disk" time="20.6"><failure/></testcase>
</testsuite></testsuites>"""


def test_a_report_is_read_as_cases_file_by_file_and_what_was_left_out_did_not_hold() -> None:
    found = cases(REPORT)
    assert found == [
        Case("a dump that is cut (99)", True, 1.4), Case("a full disk", False, 20.6), Case("left out", False, 0.0)
    ]  # fmt: skip
    assert table(found).splitlines()[2:4] == [
        "| a dump that is cut (99) | held | 1 |",
        "| a full disk | DID NOT HOLD | 21 |",
    ]


def test_a_table_takes_the_place_of_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(faults, "PAGE", page)
    page.write_text("before\n<!-- a -->\nold\n<!-- b -->\nafter\n")
    faults.written_between("<!-- a -->\n", "<!-- b -->\n", "new\n")
    assert page.read_text() == "before\n<!-- a -->\nnew\n<!-- b -->\nafter\n"
