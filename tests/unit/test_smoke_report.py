"""What users read of the smoke checks, and how facts are read from the kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kit_control import smoke_report
from kit_engine import facts

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 3
"""
TABLE_6 = """\
  sl  local_address                         remote_address                        st
   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0 0 0 0 0 0 1
"""


def check(name: str, subject: str, outcome: str, reason: str = "") -> dict[str, Any]:
    """Give one result."""
    return {"check": name, "subject": subject, "outcome": outcome, "reason": reason, "seconds": 0.1}


@pytest.fixture
def results() -> dict[str, Any]:
    """One host with a result of each kind."""
    checks = [
        check("service is healthy", "db", "passed"),
        check("service is healthy", "web", "passed"),
        check("service is healthy", "worker", "failed", "it is exited"),
        check("upload is served", "", "not run", "it writes"),
    ]
    told = {"passed": 2, "failed": 1, "not_run": 1, "checks": checks, "logs": {"worker": "    the end"}}
    return {"env": "prod", "gate": False, "ok": False, "seconds": 1.25, "hosts": {"one": told}}


def test_table_counts_and_says_why(results: dict[str, Any]) -> None:
    assert list(smoke_report.table(results)) == [
        "prod one",
        "  passed   service is healthy: db, web",
        "  not run  upload is served",
        "           it writes",
        "  FAILED   service is healthy: worker",
        "           it is exited",
        "  The end of worker's log:",
        "    the end",
        "  2 passed, 1 failed, 1 not run",
        "1.2 s",
    ]


def test_failures_are_named_with_host_and_reason(results: dict[str, Any]) -> None:
    assert smoke_report.failed(results) == ["one: service is healthy: worker: it is exited"]
    results["hosts"]["one"]["checks"] = [check("a", str(number), "failed", "b") for number in range(20)]
    assert smoke_report.failed(results)[-1] == "one: 12 more, in smoke.json"


def test_listening_sockets_are_read_with_their_addresses(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(TABLE)
    (tmp_path / "net/tcp6").write_text(TABLE_6)
    assert list(facts.listening(tmp_path)) == [("127.0.0.1", 8080), ("0.0.0.0", 22), ("::1", 80)]  # noqa: S104 - read


def test_a_host_without_a_kernels_tables_lists_nothing(tmp_path: Path) -> None:
    assert list(facts.listening(tmp_path)) == []
