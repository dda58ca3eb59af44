"""What pipelines read: result.json, plan.json, and the codes in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kit_control import codes
from kit_control.result_file import Outcome, summary
from support.kit import ROOT


def plan_of(verdict: str, *, changes: bool) -> dict[str, Any]:
    """What the engine tells of one host, as far as it matters here."""
    return {"plan": {"changes": changes, "verdict": verdict, "lines": ["site (prod)", "  images  same", verdict]}}


def outcome(folder: Path, playbook: str = "deploy") -> Outcome:
    """One that has begun."""
    made = Outcome(playbook, "prod", folder)
    made.begin()
    return made


def test_a_good_end(tmp_path: Path) -> None:
    run = outcome(tmp_path)
    run.done("web1", {"release": "20250101T000000Z-abc", "changed": True})
    run.done("web1", {"changed": False})
    run.hosts["web1"].changed = True
    run.write()

    told = json.loads((tmp_path / "result.json").read_text())
    assert (told["ok"], told["code"], told["changed"], told["playbook"]) == (True, "ok", True, "deploy")
    assert told["hosts"]["web1"]["release"] == "20250101T000000Z-abc"
    assert not (tmp_path / "plan.json").exists()


def test_the_first_failure_is_the_runs(tmp_path: Path) -> None:
    run = outcome(tmp_path)
    run.failed("web2", "Judge", {"msg": "Nothing was changed:\n  - no domain\nNext: write one", "code": "inventory"})
    run.failed("web1", "Judge", {"msg": "later"}, unreachable=True)

    told = run.result
    assert (told["ok"], told["code"]) == (False, "inventory")
    assert told["hosts"]["web2"]["message"] == "Nothing was changed: no domain"
    assert told["hosts"]["web1"]["code"] == "unreachable"


def test_failures_of_ansibles_own(tmp_path: Path) -> None:
    run = outcome(tmp_path)
    run.failed("web1", "Copy", {"msg": "timed out", "timedout": {"period": 3}})
    run.failed("web2", "Copy", {"msg": "no space\nsecond line"})

    assert [entry.code for entry in run.hosts.values()] == ["timeout", "task"]
    assert run.hosts["web2"].message == "no space"


def test_a_failure_that_the_playbook_dealt_with_is_none(tmp_path: Path) -> None:
    run = outcome(tmp_path)
    run.failed("web1", "Try", {"code": "port"})
    run.rescued("web1")

    assert (run.result["ok"], run.result["code"]) == (True, "ok")


def test_a_run_that_ends_half_way_leaves_no_earlier_result(tmp_path: Path) -> None:
    for name in ("result.json", "plan.json"):
        (tmp_path / name).write_text("{}")
    outcome(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    outcome(tmp_path, "plan")
    assert list(tmp_path.iterdir()) == []


def test_a_plan_ends_with_its_verdict(tmp_path: Path) -> None:
    run = outcome(tmp_path, "plan")
    run.done("web1", plan_of("nothing to do", changes=False))
    run.done("web2", plan_of("a deploy to prod would recreate web", changes=True))
    run.write()

    told = json.loads((tmp_path / "plan.json").read_text())
    assert told["changes"] is True
    assert told["verdict"] == run.plan_lines()[-1]
    assert told["verdict"] == "web1: nothing to do; web2: a deploy to prod would recreate web"
    assert run.plan_lines()[0] == "web1: site (prod)"


def test_a_plan_that_failed_on_one_host_says_nothing(tmp_path: Path) -> None:
    run = outcome(tmp_path, "plan")
    run.done("web1", plan_of("nothing to do", changes=False))
    run.failed("web2", "Compare", {"code": "engine"})
    run.write()

    assert run.plan_lines() == []
    assert not (tmp_path / "plan.json").exists()


def test_hosts_of_one_mind_share_a_line() -> None:
    assert summary({"web1": "nothing to do", "web2": "nothing to do"}) == "nothing to do"


def test_every_code_has_a_meaning_and_is_in_use() -> None:
    # What the callback itself says stands in no error.
    used = codes.used(ROOT / "plugins") | set(codes.OF_PLAYBOOKS)
    assert sorted(used ^ set(codes.MEANINGS)) == [], "mend kit_control/codes.py"


def test_each_task_is_told_with_its_seconds(tmp_path: Path) -> None:
    run = outcome(tmp_path)
    run.step("Judge")
    run.step("Release")
    run.write()
    told = json.loads((tmp_path / "result.json").read_text())["steps"]
    assert [one["step"] for one in told] == ["Judge", "Release"]
    assert all(one["seconds"] >= 0 for one in told)


RECORD = {
    "id": "20260101T000000Z-abc",
    "migrations": ["app.0002"],
    "backup": {"id": "20260101T000001Z-b", "level": "read"},
}


def test_a_deploy_ends_with_a_line_for_each_host_and_the_next_command(tmp_path: Path) -> None:
    run = outcome(tmp_path)
    run.done("web1", {"record": RECORD, "seconds": {"migrate": 1.5, "start": 2.0}})
    run.done("web1", {"record": RECORD, "seconds": {"switch": 0.1}})
    run.done("web2", {"release": "20260101T000000Z-abc", "changed": False})
    run.hosts["web1"].changed = True
    assert run.closing_lines() == [
        "host  release               outcome     seconds  migrations  backup",
        "web1  20260101T000000Z-abc  serves      3.6      1           20260101T000001Z-b, read",
        "web2  20260101T000000Z-abc  up to date  0.0      0           -",
        "Next: make status ENV=prod",
    ]


def test_one_that_failed_ends_with_what_its_message_says_to_type(tmp_path: Path) -> None:
    run = outcome(tmp_path)
    run.done("web1", {"record": RECORD, "seconds": {"migrate": 1.5}})
    run.failed(
        "web1", "Release", {"msg": "It does not get ready.\nNext: mend the project\nStep: healthy", "code": "not_ready"}
    )
    lines = run.closing_lines()
    assert lines[1].split()[:4] == ["web1", "20260101T000000Z-abc", "not_ready", "1.5"]
    assert lines[-1] == "Next: mend the project"
    assert outcome(tmp_path, "render").closing_lines() == []
