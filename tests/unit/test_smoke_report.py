"""What users read of the smoke checks."""

from __future__ import annotations

from typing import Any

import pytest
from kit_control import smoke_report


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
