"""What a host keeps of its releases: records that are checked, logs without secrets, lists for people."""

from __future__ import annotations

import json
import os
import time
from argparse import Namespace
from contextlib import suppress
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kit_engine import (
    backup_schedule,
    cli,
    ending,
    hooks,
    one_off,
    pending,
    recovery,
    releases,
    retention,
    rollout,
    runlog,
)
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.masking import MASK
from kit_engine.pending import Pending
from kit_engine.releases import Record
from kit_engine.report import Report

ID = "20260101T000000Z-0123456"
SECRET = "canary-database-password"  # noqa: S105 - looked for in what is kept


def record(root: Path, **facts: Any) -> Path:
    """Write a record, and change it as nobody of ours would."""
    releases.write(root, Record(id=ID, env="prod", started="2026-01-01T00:00:00Z", state="good"))
    path = root / releases.RECORDS / f"{ID}.json"
    told = {**json.loads(path.read_text()), **facts}
    path.write_text(json.dumps({name: value for name, value in told.items() if value is not None}))
    return path


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"schema": 2}, "schema is 2"),
        ({"state": "fine"}, "state 'fine'"),
        ({"mood": "good"}, "'mood' is not known"),
        ({"dirty": 1}, "'dirty' is 1, not bool"),
        ({"seconds": {"migrate": "long"}}, "'seconds'"),
        ({"migrations": [1]}, "'migrations'"),
        ({"id": "20260101T000000Z-other"}, "id is 20260101T000000Z-other"),
        ({"id": None}, "id is None"),
    ],
)
def test_what_is_not_a_record_is_none_and_is_named(tmp_path: Path, facts: dict[str, Any], words: str) -> None:
    path = record(tmp_path, **facts)
    assert releases.read(tmp_path, ID) is None
    (told,) = retention.unreadable(tmp_path)
    assert str(path) in told
    assert words in told


def test_half_a_record_is_named_too_and_a_whole_one_is_not(tmp_path: Path) -> None:
    path = record(tmp_path)
    assert retention.unreadable(tmp_path) == []
    assert [one.id for one in retention.records(tmp_path)] == [ID]
    path.write_text(path.read_text()[:40])
    assert len(retention.unreadable(tmp_path)) == 1
    assert retention.records(tmp_path) == []


def test_nothing_else_is_written_as_a_record(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="state 'fine'"):
        releases.write(tmp_path, Record(id=ID, env="prod", state="fine"))
    assert not (tmp_path / releases.RECORDS).exists()


def released(root: Path) -> Docker:
    """A release that has a secret."""
    stack = SimpleNamespace(root=root, release=ID, env="prod", bundle=root / "bundle", secret_variables=(), rolls=False)
    (root / "bundle/secrets").mkdir(parents=True, exist_ok=True)
    (root / "bundle/secrets/PASSWORD").write_text(SECRET)
    (root / releases.RECORDS).mkdir(exist_ok=True)
    return SimpleNamespace(stack=stack)  # type: ignore[return-value]  # as far as it is read


def followed(root: Path) -> Report:
    """A report of a run of that release."""
    report = Report("release", as_json=True, names=("migrate",), stream=StringIO())
    runlog.follow(released(root), report, "deploy: prepare")
    return report


def noted(root: Path) -> list[tuple[str, str]]:
    """The steps and events of its journal."""
    told = runlog.path_of(root, ID, runlog.JOURNAL).read_text().splitlines()
    return [(line["step"], line["event"]) for line in map(json.loads, told)]


def test_the_log_of_a_run_has_each_line_with_its_time_and_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = followed(tmp_path)
    with suppress(EngineError), report.step("migrate"):
        report.say(f"    the app says {SECRET}")
        raise EngineError("migrate", f"it ended with 1:\n    password={SECRET}", "mend it")
    report.apart("go back").say(f"    {SECRET} again")
    report.failed(EngineError("migrate", f"it ended with 1:\n    password={SECRET}", "mend it"))

    path = runlog.path_of(tmp_path, ID)
    lines = path.read_text().splitlines()
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    for line in lines:
        time.strptime(line.split(" ")[0], "%Y-%m-%dT%H:%M:%SZ")
    assert [line.partition(" ")[2] for line in lines] == [
        "--- deploy: prepare",
        "[1/1] migrate … ",
        f"    the app says {MASK}",
        "[1/1] migrate … failed",
        f"    {MASK} again",
        "release: migrate: it ended with 1:",
        f"    password={MASK}",
        "Next: mend it",
    ]
    told = capsys.readouterr().out + report.stream.getvalue()  # type: ignore[attr-defined]  # it is a StringIO
    assert SECRET not in told
    assert MASK in told
    assert noted(tmp_path) == [("migrate", "begin"), ("migrate", "failed")]


def test_a_run_that_was_cut_off_leaves_half_a_line_and_the_next_begins_one(tmp_path: Path) -> None:
    report = followed(tmp_path)
    report.log("[1/9] check … ")
    followed(tmp_path).say("on")
    lines = runlog.path_of(tmp_path, ID).read_text().splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        "--- deploy: prepare", "[1/9] check … ", "--- deploy: prepare", "on",
    ]  # fmt: skip


def test_what_is_no_text_can_be_kept_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = os.fsdecode(b"media/\xff.png")
    releases.write(tmp_path, Record(id=ID, env="prod", who=odd, reason=odd, state="failed"))
    kept = releases.read(tmp_path, ID)
    assert kept
    assert (kept.who, kept.reason) == (odd, odd)
    followed(tmp_path).log(f"by {odd}\n")
    assert runlog.path_of(tmp_path, ID).read_text().endswith(" by media/\\udcff.png\n")
    read_along = tmp_path / "progress"
    read_along.touch()
    monkeypatch.setenv("KIT_PROGRESS", str(read_along))
    Report("release", as_json=True).say(odd)
    assert read_along.read_text() == "media/\\udcff.png\n"
    assert json.loads(hooks.told(kept, hooks.AFTER_FAILURE, "deploy").encode())["who"] == odd


@pytest.mark.parametrize("words", [("release", "--request", '{"phase": "prepare", "rollback": "none"}'), ("schedule",)])
def test_how_a_run_that_was_cut_off_is_made_whole_is_noted_with_it_and_not_as_its_own_steps(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    docker = released(root)
    followed(root).note("drain", "begin")
    pending.begin(root, Pending(ID, pending.DEPLOY, "before"))

    def serve(_docker: Docker, report: Report) -> None:
        report.names = ("healthy",)
        with report.step("healthy"):
            report.say(f"    the app says {SECRET}")
            assert noted(root)[-1] == ("recover: healthy", "begin")

    def schedule(_docker: Docker, arguments: Namespace) -> None:
        arguments.report.note("of the verb's own", "begin")

    monkeypatch.setattr(recovery, "docker_of", lambda _root, _id: docker)
    monkeypatch.setattr(one_off, "remove_left", lambda _docker: None)
    monkeypatch.setattr(ending, "remove_half_made", lambda _docker: None)
    monkeypatch.setattr(rollout, "give_up", lambda *_: None)
    monkeypatch.setattr(recovery, "serve", serve)
    monkeypatch.setattr(backup_schedule, "schedule_verb", schedule)
    monkeypatch.setattr(cli, "load", lambda _root: docker.stack)
    monkeypatch.setattr(cli, "Docker", lambda _stack: docker)
    cli.main(["--root", str(root), *words])
    assert noted(root) == [("drain", "begin"), ("recover: healthy", "begin"), ("recover: healthy", "end")]
    log = runlog.path_of(root, ID).read_text()
    assert f"the deploy of release {ID} was cut off" in log
    assert SECRET not in log + capsys.readouterr().err


def test_going_back_is_noted_with_the_release_that_is_left(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(_docker: Docker, report: Report) -> None:
        report.names = ("drain",)
        with report.step("drain"):
            assert noted(root) == [("go back: drain", "begin")]

    monkeypatch.setattr(recovery, "docker_of", lambda _root, _id: released(root))
    monkeypatch.setattr(recovery, "serve", serve)
    recovery.go_back(root, Pending(ID, pending.DEPLOY, "before"), followed(root), "the smoke gate failed")
    assert noted(root) == [("go back: drain", "begin"), ("go back: drain", "end")]


def test_old_records_go_with_their_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "KEPT_RECORDS", 1)
    for number in (1, 2):
        name = f"2026010{number}T000000Z-0123456"
        releases.write(tmp_path, Record(id=name, env="prod", started=name, state="failed"))
        for kind in (runlog.LOG, runlog.JOURNAL):
            runlog.path_of(tmp_path, name, kind).touch()
    retention.prune(tmp_path, 5)
    assert sorted(path.name for path in (tmp_path / releases.RECORDS).iterdir()) == [
        f"20260102T000000Z-0123456.{kind}" for kind in ("journal", "json", "log")
    ]
