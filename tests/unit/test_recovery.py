"""What becomes of a release that fails or is cut off, and of what is known of it, without an engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from kit_engine import (
    admin,
    current,
    database,
    database_password,
    edge,
    pending,
    preflight,
    prepare,
    readiness,
    recovery,
    release,
    release_commands,
    releases,
    releasing,
    restore_media,
    retention,
    rollout,
    static_files,
    synced_source,
)
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.pending import DEPLOY, RESTORE, ROLLBACK, Pending
from kit_engine.report import Report
from support.kit import ROOT
from support.released_host import ONE, STATIC, THREE, TWO, Host, report

KNOWN: dict[str, Any] = {
    "migrations": ["site.0002_more"], "backup": {"id": "20260102T000000Z"}, "gaps": {"db": 2.0}, "previous": ONE,
}  # fmt: skip


def bring_up_again(host: Host, **more: Any) -> Pending:
    """Deploy what serves already, as far as the switch."""
    facts = {"ref": "HEAD", "sha": "0" * 40, "dirty": False, "image": "app:1", "who": "tests@here"}
    return releasing._deploy(host.root, report(), {"configuration": "", "env": "prod", **facts, **more})


# --- what the release that serves stands on ---


def test_a_release_that_is_given_up_leaves_the_role_with_the_old_password(host: Host) -> None:
    old, new = host.release(ONE), host.release(TWO)
    for service in old.stack.services:
        host.has(service)
    rollout.give_up(new, old)
    assert host.done == [f"secrets of {ONE}", f"password of {ONE}", f"cache of {ONE}", STATIC]


def test_a_database_that_is_down_is_not_asked_for_its_password(host: Host) -> None:
    old, new = host.release(ONE), host.release(TWO)
    for service in old.stack.services:
        host.has(service, running=service != "db")
    rollout.give_up(new, old)
    assert host.done == [f"secrets of {ONE}", f"cache of {ONE}", STATIC]


def test_a_service_that_only_the_failed_release_had_goes_with_it(host: Host) -> None:
    old, new = host.release(ONE, lacks="redis"), host.release(TWO)
    for service in new.stack.services:
        host.has(service)
    host.has("web", name=TWO)
    rollout.give_up(new, old)
    assert [one for one in host.done if one.startswith("remove")] == [f"remove web{TWO}", "remove redis"]


def test_going_back_sets_the_password_before_anything_of_the_app_starts(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = host.release(ONE)
    for service in old.stack.services:
        host.has(service)
    monkeypatch.setattr(prepare, "folders", lambda _stack: None)
    monkeypatch.setattr(edge, "stage", lambda *_: False)
    monkeypatch.setattr(readiness, "wait_healthy", lambda _docker, service, _restarts: host.done.append(service))
    monkeypatch.setattr(rollout, "_start_web", lambda _docker: host.done.append("web"))
    monkeypatch.setattr(readiness, "wait_for_web", lambda *_: None)
    monkeypatch.setattr(rollout, "switch", lambda *_: None)
    told = report()
    told.names = rollout.CONVERGE
    rollout.converge(old, told)
    assert host.done == [f"secrets of {ONE}", "db", "redis", f"password of {ONE}", f"cache of {ONE}", "web", STATIC]


def test_a_release_without_nginx_sets_the_password_although_its_database_is_unchanged(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    docker = host.release(ONE, "dev")
    everything = set(docker.stack.services)
    asked: list[str] = []

    def ensure(docker: Docker) -> bool:
        asked.append(docker.stack.release)
        return True

    for module, name, answer in (
        (Docker, "containers", []), (preflight, "check", []), (prepare, "folders", None), (prepare, "secrets", True),
        (prepare, "writable_paths", []), (synced_source, "sync", False), (current, "fingerprints", {"web": ""}),
        (current, "services", everything), (current, "with_other_secrets", set()), (edge, "stage", False),
        (release, "remake", None), (release, "start", None), (static_files, "publish", None),
        (readiness, "wait_healthy", None), (readiness, "wait_ready", None), (current, "remember", None),
        (release_commands, "run_if_needed", release_commands.Outcome(False, [])), (admin, "ensure", None),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, lambda *_, _answer=answer, **_more: _answer)
    monkeypatch.setattr(database_password, "ensure", ensure)
    told = report()
    told.names = release.STEPS
    release.up(docker, told)
    assert asked == [ONE]


# --- a run that was cut off ---


@pytest.mark.parametrize("env", ["prod", "dev"])
def test_a_first_deploy_that_was_cut_off_at_once_is_recovered(host: Host, env: str) -> None:
    host.release(ONE, env, state="running")
    pending.begin(host.root, Pending(ONE, DEPLOY, ""))
    assert "cut off before" in recovery.recover(host.root)
    assert pending.read(host.root) is None
    assert host.record(ONE).state == "abandoned"


def test_before_the_switch_the_old_release_is_served_again(host: Host) -> None:
    host.release(ONE, "dev")
    host.release(TWO, "dev", state="running")
    releases.switch(host.root, ONE)
    pending.begin(host.root, Pending(TWO, DEPLOY, ONE))
    recovery.recover(host.root)
    assert host.done == [f"serve {ONE}"]
    assert host.record(TWO).state == "abandoned"


def test_a_rollback_that_was_cut_off_after_its_switch_has_left_the_release(host: Host) -> None:
    for name in (ONE, TWO, THREE):
        host.release(name)
    releases.switch(host.root, ONE)
    pending.begin(host.root, Pending(ONE, ROLLBACK, TWO))
    recovery.recover(host.root)
    assert host.record(TWO).state == "rolled_back"
    assert host.record(ONE).state == "good"
    # The next release may be left too, and not for the one that was left before.
    releases.switch(host.root, THREE)
    assert retention.target(host.root, "").id == ONE


def test_a_rollback_that_was_cut_off_before_its_switch_has_left_nothing(host: Host) -> None:
    host.release(ONE)
    host.release(TWO)
    releases.switch(host.root, TWO)
    pending.begin(host.root, Pending(ONE, ROLLBACK, TWO))
    recovery.recover(host.root)
    assert (host.record(ONE).state, host.record(TWO).state) == ("good", "good")
    assert releases.current(host.root) == TWO


@pytest.mark.parametrize(("wanted", "goal"), [("", TWO), (TWO, TWO), (ONE, ONE)])
def test_the_next_rollback_after_one_that_was_cut_off_goes_no_further_unless_told(
    host: Host, wanted: str, goal: str
) -> None:
    for name in (ONE, TWO, THREE):
        host.release(name)
    releases.switch(host.root, TWO)
    pending.begin(host.root, Pending(TWO, ROLLBACK, THREE))
    found = releasing._goal(host.root, report(), wanted)
    assert (found.record.id, found.stands, found.completed) == (goal, goal == TWO, goal == TWO)
    assert host.record(THREE).state == "rolled_back"


def test_one_that_was_cut_off_before_its_switch_is_begun_anew(host: Host) -> None:
    for name in (ONE, TWO, THREE):
        host.release(name)
    releases.switch(host.root, THREE)
    pending.begin(host.root, Pending(TWO, ROLLBACK, THREE))
    found = releasing._goal(host.root, report(), "")
    assert (found.record.id, found.stands) == (TWO, False)


def test_a_host_where_it_serves_has_nothing_under_way(host: Host) -> None:
    host.release(ONE)
    releases.switch(host.root, ONE)
    stack = host.root / releases.FOLDER / ONE / "stack.json"
    (stack.parent / json.loads(stack.read_text())["compose_file"]).touch()
    told = releasing._prepare(host.root, report(), {"rollback": ONE, "switch": True})
    assert told["stands"]
    assert not told["changed"]
    assert "switched" not in told
    assert "stack.json" in told["files"]
    assert pending.read(host.root) is None
    assert host.done == []


def test_one_that_is_cut_off_says_how_it_goes_on(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(*_: object, **_more: object) -> None:
        raise KeyboardInterrupt

    host.release(ONE)
    host.release(TWO)
    releases.switch(host.root, TWO)
    monkeypatch.setattr(rollout, "ready_for", cut_off)
    monkeypatch.setattr(rollout, "give_up", lambda *_: None)
    lines = StringIO()
    told = Report("release", as_json=False, stream=lines)
    with pytest.raises(KeyboardInterrupt):
        releasing._prepare(host.root, told, {"rollback": ""})
    assert told.again == f"make rollback ENV=prod RELEASE={ONE}"
    assert f"going back to release {ONE}; should this be cut off: {told.again}" in lines.getvalue()


@pytest.mark.parametrize("judged", [True, False])
def test_one_that_had_been_left_is_good_again_once_it_passed_the_gate(host: Host, judged: bool) -> None:
    host.release(ONE)
    host.release(TWO, state="rolled_back", reason=f"rolled back to {ONE}")
    host.release(THREE)
    releases.switch(host.root, TWO)
    pending.begin(host.root, Pending(TWO, ROLLBACK, ONE))
    releasing._finish(host.root, report(), "", 5, judged=judged)
    record = host.record(TWO)
    assert (record.state, record.reason) == (("good", "") if judged else ("rolled_back", f"rolled back to {ONE}"))
    assert host.record(ONE).state == "rolled_back"
    # And what the next release goes back to, as it had been before somebody left it by mistake.
    releases.switch(host.root, THREE)
    if judged:
        assert retention.target(host.root, "").id == TWO
    else:
        with pytest.raises(EngineError, match="No good release is left"):
            retention.target(host.root, "")


def have_it_fail(monkeypatch: pytest.MonkeyPatch, failing: Mapping[str, tuple[str, str]]) -> list[str]:
    """Have some releases fail to serve, each in a step and with a code; gives those that were tried."""
    tried: list[str] = []

    def served(docker: Docker, report: Report) -> None:
        tried.append(docker.stack.release)
        if docker.stack.release in failing:
            report.current, code = failing[docker.stack.release]
            raise EngineError(code, "HTTP 503", "look")
        releases.switch(docker.stack.root, docker.stack.release)

    monkeypatch.setattr(recovery, "serve", served)
    return tried


@pytest.mark.parametrize(("kind", "state"), [(DEPLOY, "abandoned"), (ROLLBACK, "good")])
def test_an_earlier_release_that_does_not_get_ready_holds_up_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch, kind: str, state: str
) -> None:
    old = host.release(ONE)
    host.release(TWO, state="running" if kind == DEPLOY else "good")
    for service in (one for one in old.stack.services if one != "worker"):
        host.has(service)
    releases.switch(host.root, ONE)
    pending.begin(host.root, Pending(TWO, kind, ONE))
    have_it_fail(monkeypatch, {ONE: ("healthy", "not_ready")})
    monkeypatch.setattr(release, "start", lambda _docker, names, *_, **_more: host.done.append(f"start {names[0]}"))
    told = recovery.recover(host.root)
    assert "HTTP 503" in told
    assert "make deploy ENV=prod" in told
    assert pending.read(host.root) is None
    assert host.record(TWO).state == state
    # It goes on with all that it stands on.
    assert host.done == [f"secrets of {ONE}", f"password of {ONE}", f"cache of {ONE}", "start worker", STATIC]
    assert recovery.recover(host.root) == ""


def test_two_releases_that_do_not_get_ready_hold_up_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.release(ONE)
    host.release(TWO, state="running")
    releases.switch(host.root, TWO)
    pending.begin(host.root, Pending(TWO, DEPLOY, ONE))
    tried = have_it_fail(monkeypatch, {ONE: ("ready", "unhealthy"), TWO: ("healthy", "not_ready")})
    told = recovery.recover(host.root)
    assert tried == [TWO, ONE]
    assert "could not be brought to serve" in told
    assert f"Release {ONE}, which served before, does not get ready" in told
    assert pending.read(host.root) is None
    assert host.record(TWO).state == "failed"


# Compose refuses, the database is not up, the engine is away: before the release is judged, or by another code.
@pytest.mark.parametrize("failure", [("start", "start"), ("start", "unhealthy"), ("healthy", "docker")])
@pytest.mark.parametrize("serving", [ONE, TWO])
def test_a_host_that_cannot_act_is_made_whole_by_the_next_run(
    host: Host, monkeypatch: pytest.MonkeyPatch, serving: str, failure: tuple[str, str]
) -> None:
    host.release(ONE)
    host.release(TWO, state="running")
    releases.switch(host.root, serving)
    found = Pending(TWO, DEPLOY, ONE)
    pending.begin(host.root, found)
    have_it_fail(monkeypatch, {ONE: failure, TWO: failure})
    with pytest.raises(EngineError):
        recovery.recover(host.root)
    assert pending.read(host.root) == found


# --- going back ---


@pytest.mark.parametrize("kind", [DEPLOY, ROLLBACK])
def test_only_a_deploy_that_is_left_tells_what_its_migrations_left(host: Host, kind: str) -> None:
    host.release(ONE)
    host.release(TWO, **KNOWN)
    releases.switch(host.root, TWO)
    under_way = Pending(TWO, kind, ONE)
    pending.begin(host.root, under_way)
    told = recovery.go_back(host.root, under_way, report(), "no style sheet")
    assert f"Release {ONE} serves again" in told
    assert ("make restore" in told) is (kind == DEPLOY)
    assert ("site.0002_more" in told) is (kind == DEPLOY)


# --- the release that serves, brought up again ---


@pytest.mark.parametrize("before", ["good", "abandoned"])
def test_what_is_known_of_a_release_stays_when_it_is_brought_up_again(host: Host, before: str) -> None:
    host.release(ONE)
    host.release(TWO, state=before, **KNOWN)
    releases.switch(host.root, TWO)
    assert bring_up_again(host).id == TWO
    releasing._switch(host.root, report())
    assert host.done[-1] == f"up {TWO}"
    releasing._finish(host.root, report(), "", 5)
    record = host.record(TWO)
    assert record.state == "good"
    assert {name: getattr(record, name) for name in KNOWN} == KNOWN
    assert retention.migrations_after(host.root, ONE) == KNOWN["migrations"]


@pytest.mark.parametrize("switched", [False, True])
def test_one_that_was_not_judged_goes_back_when_the_gate_refuses_it(host: Host, switched: bool) -> None:
    host.release(ONE)
    host.release(TWO, state="abandoned", **KNOWN)
    releases.switch(host.root, TWO)
    bring_up_again(host)
    if switched:
        releasing._switch(host.root, report())
    with pytest.raises(EngineError) as refused:
        releasing._finish(host.root, report(), "no style sheet", 5)
    assert f"Release {ONE} serves again" in refused.value.problem
    assert "BACKUP=20260102T000000Z" in refused.value.problem
    assert releases.current(host.root) == ONE
    assert host.record(TWO).state == "failed"


def test_one_whose_earlier_release_is_gone_has_nothing_to_go_back_to(host: Host) -> None:
    host.release(ONE)
    shutil.rmtree(host.root / releases.FOLDER / ONE)
    host.release(TWO, state="abandoned", **KNOWN)
    releases.switch(host.root, TWO)
    assert bring_up_again(host).previous == ""


def test_one_that_was_good_is_left_as_it_is_when_the_gate_refuses_it(host: Host) -> None:
    host.release(ONE)
    host.release(TWO, **KNOWN)
    releases.switch(host.root, TWO)
    bring_up_again(host)
    with pytest.raises(EngineError) as refused:
        releasing._finish(host.root, report(), "no style sheet", 5)
    assert "make rollback ENV=prod" in refused.value.problem
    assert "no earlier release" not in refused.value.problem
    assert releases.current(host.root) == TWO


@pytest.mark.parametrize("switched", [False, True])
@pytest.mark.parametrize("before", ["good", "abandoned"])
def test_one_that_is_cut_off_while_it_is_brought_up_again_is_what_it_was(
    host: Host, before: str, switched: bool
) -> None:
    host.release(ONE)
    host.release(TWO, state=before, **KNOWN)
    releases.switch(host.root, TWO)
    bring_up_again(host)
    if switched:
        releasing._switch(host.root, report())
    recovery.recover(host.root)
    assert host.done[-1] == f"serve {TWO}"
    assert host.record(TWO).state == before
    assert host.record(TWO).backup == KNOWN["backup"]


def test_what_a_failed_release_left_is_not_made_anew_unasked(host: Host) -> None:
    host.release(ONE, **KNOWN)
    releases.switch(host.root, ONE)
    host.anew = {"db"}
    with pytest.raises(EngineError) as refused:
        bring_up_again(host)
    assert refused.value.code == "restart_needed"
    assert "make deploy ENV=prod ALLOW_RESTART=db" in refused.value.remedy
    assert (host.done, pending.read(host.root), host.record(ONE).state) == ([], None, "good")
    bring_up_again(host, restarts=["db"])
    releasing._switch(host.root, report())
    assert host.done == [f"up {ONE}"]


# --- a restore that was cut off ---


@pytest.mark.parametrize("unsettled", [True, False])
def test_media_files_follow_the_database_before_anybody_writes_to_them(
    host: Host, monkeypatch: pytest.MonkeyPatch, *, unsettled: bool
) -> None:
    host.release(ONE)
    releases.switch(host.root, ONE)
    pending.begin(host.root, Pending(ONE, RESTORE, ONE))
    if unsettled:
        (host.root / restore_media.NOTE).write_text('{"kept": "site_before_20260101_000000"}')
    monkeypatch.setattr(rollout, "stand", lambda docker: host.done.append(f"stand {docker.stack.release}"))
    monkeypatch.setattr(restore_media, "settle", lambda *_: host.done.append("settle"))
    recovery.recover(host.root)
    assert host.done == [*([f"stand {ONE}", "settle"] if unsettled else []), f"serve {ONE}"]
    assert pending.read(host.root) is None


def test_only_what_the_app_stands_on_is_brought_up_for_that(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = host.release(ONE)
    host.has("redis")
    monkeypatch.setattr(prepare, "folders", lambda _stack: None)
    monkeypatch.setattr(release, "start", lambda _docker, services, *_: host.done.append(f"start {services}"))
    monkeypatch.setattr(readiness, "wait_healthy", lambda _docker, service, _: host.done.append(f"healthy {service}"))
    rollout.stand(docker)
    assert host.done == [f"secrets of {ONE}", "start ('db',)", "healthy db", "healthy redis"]


# --- migrations ---


def test_a_release_does_not_know_the_migrations_of_any_newer_one(host: Host) -> None:
    host.release(ONE, migrations=["site.0001_initial"])
    host.release(TWO, state="failed", migrations=["site.0002_more"])
    host.release(THREE, state="rolled_back", migrations=["site.0003_most", "site.0002_more"])
    releases.switch(host.root, ONE)
    assert retention.migrations_after(host.root, ONE) == ["site.0002_more", "site.0003_most"]
    # Also on the way to a newer one.
    assert retention.migrations_after(host.root, TWO) == ["site.0003_most", "site.0002_more"]
    assert retention.migrations_after(host.root, THREE) == []


@pytest.mark.parametrize(
    ("there", "unknown"),
    [(["site.0001_initial", "site.0003_most"], ["site.0003_most"]), ([], ["site.0002_more", "site.0003_most"])],
)
def test_what_a_restore_undid_is_not_named(
    host: Host, monkeypatch: pytest.MonkeyPatch, there: list[str], unknown: list[str]
) -> None:
    docker = host.release(ONE)
    host.release(TWO, migrations=["site.0002_more", "site.0003_most"])

    def migrations(_docker: Docker) -> list[str]:
        if not there:
            raise EngineError("stopped", "it is down", "start it")
        return there

    monkeypatch.setattr(database, "migrations", migrations)
    assert releasing._unknown(docker) == unknown


def test_backup_and_migrations_are_in_the_record_as_soon_as_they_are_made(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.release(ONE)
    releases.switch(host.root, ONE)
    told = (ROOT / "tests/render/golden/prod/stack.json").read_text()
    seen: list[Mapping[str, Any]] = []

    def receive(root: Path, wanted: str, *_: Any) -> str:
        (root / releases.FOLDER / wanted).mkdir()
        (root / releases.FOLDER / wanted / "stack.json").write_text(told)
        return wanted

    def ready_for(_docker: Docker, _report: Report, _wanted: rollout.Wanted, done: rollout.Prepared) -> None:
        done.backup = {"id": "20260102T000000Z"}
        done.keep(done)
        done.migrations.append("site.0002_more")
        done.keep(done)
        found = host.record(TWO)
        seen.append({"backup": found.backup, "migrations": found.migrations, "state": found.state})

    monkeypatch.setattr(releases, "receive", receive)
    monkeypatch.setattr(rollout, "ready_for", ready_for)
    bring_up_again(host, configuration="0" * 64, id=TWO)
    assert seen == [{"backup": {"id": "20260102T000000Z"}, "migrations": ["site.0002_more"], "state": "running"}]
    assert host.record(TWO).previous == ONE
