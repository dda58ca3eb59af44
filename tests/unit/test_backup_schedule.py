"""Timers of backups: what is written for systemd, and how the last runs are told."""

from __future__ import annotations

import http.server
import json
import os
import socketserver
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from kit_engine import at_boot, backup_schedule, cli, hooks, lock, pending, recovery, releases, stack, systemd
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report
from kit_engine.stack import Stack
from support.kit import ROOT

SYSTEMCTL = """#!/bin/sh
echo "$@" >>"{log}"
case $1 in
  show) case $2 in *.service) cat "{service}"; exit;; esac
    echo ActiveState=$(cat "{state}"); echo "NextElapseUSecRealtime=Mon 2026-11-30 02:30:00 UTC" ;;
  restart) [ ! -e "{refuses}" ] || { echo "bad unit file setting" >&2; exit 1; }; echo active >"{state}" ;;
  enable) wants="{units}/multi-user.target.wants"
    case $2 in *.service) mkdir -p "$wants"; ln -sf "../$2" "$wants/$2" ;; esac ;;
  disable) echo inactive >"{state}" ;;
esac
"""


class Machine:
    """A host whose systemd only takes notes."""

    def __init__(self, folder: Path) -> None:
        self.units, self.log, self.state = folder / "units", folder / "log", folder / "state"
        self.refuses, self.service, self.stamps = folder / "refuses", folder / "service", folder / "stamps"
        self.stamps.mkdir()
        self.service.write_text("ActiveState=inactive\n")
        self.units.mkdir()
        self.log.touch()
        self.state.write_text("inactive\n")

    def calls(self) -> list[str]:
        """What systemd was told since the last time, questions aside."""
        found = [line for line in self.log.read_text().splitlines() if not line.startswith("show")]
        self.log.write_text("")
        return found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    program = tmp_path / "bin/systemctl"
    program.parent.mkdir()
    text = SYSTEMCTL
    for name in ("log", "state", "refuses", "service", "units"):
        text = text.replace(f"{{{name}}}", str(getattr(made, name)))
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(systemd, "UNITS", made.units)
    monkeypatch.setattr(systemd, "RUNS", tmp_path)
    monkeypatch.setattr(backup_schedule, "STAMPS", made.stamps)
    return made


@pytest.fixture
def prod(tmp_path: Path) -> Stack:
    """The stack of the golden files, on a host."""
    root = tmp_path / "srv"
    (root / "records").mkdir(parents=True)
    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    return stack.read(data, root, root / "releases/one")


def test_timers_are_written_once_and_follow_the_release(machine: Machine, prod: Stack) -> None:
    assert backup_schedule.install(prod)
    timer = machine.units / f"{prod.project}-backup.timer"
    service = machine.units / f"{prod.project}-backup.service"
    assert "OnCalendar=*-*-* 02:30:00\n" in timer.read_text()
    assert f'ExecStart="{prod.root}/docker-manage.sh" prod scheduled backup --wait 3600\n' in service.read_text()
    assert len(list(machine.units.iterdir())) == 4
    calls = machine.calls()
    assert calls[0] == "daemon-reload"
    assert calls[1:3] == [f"enable {timer.name}", f"restart {timer.name}"]
    # Again: nothing is to be done.
    assert not backup_schedule.install(prod)
    assert machine.calls() == []
    # One that somebody stopped runs again.
    machine.state.write_text("inactive\n")
    assert backup_schedule.install(prod)
    # Another time, and no drill.
    other = replace(prod, backup=replace(prod.backup, schedule="hourly", drill_schedule=""))
    assert backup_schedule.install(other)
    assert "OnCalendar=hourly\n" in timer.read_text()
    assert len(list(machine.units.iterdir())) == 2
    backup_schedule.remove(prod)
    assert list(machine.units.iterdir()) == []
    assert f"disable --now {timer.name}" in machine.calls()


def test_a_time_that_systemd_cannot_read_is_told_and_keeps_no_release(
    machine: Machine, prod: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.refuses.touch()
    with pytest.raises(EngineError, match="bad unit file setting") as raised:
        backup_schedule.install(prod)
    assert raised.value.code == "schedule"
    machine.state.write_text("inactive\n")
    backup_schedule.keep(prod, Report("release", as_json=False))
    assert "timers of the backups could not be installed" in "".join(capsys.readouterr())


def test_a_boot_makes_whole_what_was_cut_off_before_it(machine: Machine, prod: Stack) -> None:
    # Whether backups are scheduled or not.
    plain = replace(prod, backup=replace(prod.backup, schedule="", drill_schedule=""))
    unit = machine.units / f"{prod.project}-recover.service"
    assert at_boot.install(plain)
    assert f'ExecStart="{prod.root}/docker-manage.sh" prod recover --wait 3600\n' in unit.read_text()
    assert f"ConditionPathExists={prod.root}/records/pending.json\n" in unit.read_text()
    assert machine.calls() == ["daemon-reload", f"enable {unit.name}"]
    assert not at_boot.install(plain)
    assert machine.calls() == []
    # One that somebody disabled is enabled, one from before is written anew.
    (machine.units / "multi-user.target.wants" / unit.name).unlink()
    assert at_boot.install(plain)
    unit.write_text("[Unit]\n")
    assert at_boot.install(plain)
    assert "[Service]" in unit.read_text()
    # The timers' own install lets it be.
    assert not backup_schedule.install(plain)
    assert unit.exists()
    machine.calls()
    at_boot.remove(plain)
    assert not unit.exists()
    assert machine.calls() == [f"disable {unit.name}", "daemon-reload"]
    at_boot.remove(plain)
    assert machine.calls() == []


def test_what_hinders_a_boot_from_that_hinders_no_release(
    machine: Machine, prod: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.units.rename(machine.units.with_name("elsewhere"))
    at_boot.keep(prod, Report("release", as_json=False))
    assert "warning: a reboot in the middle of a release could not be provided for" in capsys.readouterr().err
    # What is no release has nothing that is under way.
    assert not at_boot.install(replace(prod, bundle=prod.root))


def test_without_systemd_nothing_is_written(machine: Machine, prod: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "RUNS", machine.units / "none")
    assert not backup_schedule.install(prod)
    assert not at_boot.install(prod)
    assert list(machine.units.iterdir()) == []
    told = backup_schedule.state(prod)
    assert told is not None
    assert not told["systemd"]
    assert "no systemd here" in backup_schedule.lines(told)[0]


@pytest.mark.usefixtures("machine")
def test_the_last_runs_are_told(prod: Stack) -> None:
    assert backup_schedule.lines(backup_schedule.state(prod)) == [
        f"backup       {prod.project}-backup.timer is MISSING; has not run yet",
        f"drill        {prod.project}-backup-drill.timer is MISSING; has not run yet",
    ]
    backup_schedule.install(prod)
    now = time.time()
    runs = {
        "backup": {"begun": now - 100, "ended": now - 90, "ok": True, "backup": "one", "problem": ""},
        "drill": {"begun": now - 100, "ended": now - 90, "ok": False, "backup": "", "problem": "no room\nat all"},
    }
    (prod.root / backup_schedule.RECORD).write_text(json.dumps(runs))
    first, second = backup_schedule.lines(backup_schedule.state(prod))
    assert first.startswith("backup       next Mon 2026-11-30 02:30:00 UTC; last ")
    assert first.endswith(" ago, good")
    assert second.endswith(" ago, FAILED: no room")
    # A record that is none hinders nobody.
    (prod.root / backup_schedule.RECORD).write_text("[]")
    assert backup_schedule.lines(backup_schedule.state(prod))[0].endswith("has not run yet")


@pytest.mark.usefixtures("machine")
def test_where_nothing_is_scheduled_nothing_is_told(prod: Stack) -> None:
    assert backup_schedule.state(replace(prod, database=None)) is None
    assert backup_schedule.lines(None) == []
    assert not backup_schedule.install(replace(prod, database=None))


def test_the_dead_mans_switch_is_asked(prod: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        """Notes what is asked."""

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_words: object) -> None:
            """Say nothing."""

    report = Report("scheduled", as_json=False)
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/switch"
        watched = replace(prod, backup=replace(prod.backup, ping_url=url))
        backup_schedule.ping(watched, report)
        backup_schedule.ping(watched, report, "/fail")
        server.shutdown()
    assert asked == ["/switch", "/switch/fail"]
    backup_schedule.ping(watched, report)
    assert "did not answer" in "".join(capsys.readouterr())


@pytest.mark.parametrize("answer", [b"nothing of the web\r\n\r\n", b"HTTP/1.1 " + b"x" * 70_000, b""])
def test_an_answer_that_is_none_hides_no_failure(
    prod: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: bytes
) -> None:
    told: list[str] = []
    monkeypatch.setattr(hooks, "warn", lambda _docker, moment, *_: told.append(moment))
    releases.write(prod.root, releases.Record(id="one", env="prod", started="2026-01-01T00:00:00Z", state="good"))

    class Handler(socketserver.BaseRequestHandler):
        """Answers so."""

        def handle(self) -> None:
            self.request.recv(1000)
            self.request.sendall(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for url in (f"http://127.0.0.1:{server.server_address[1]}", "http://127.0.0.1:port", "http://127.0.0.1/a b"):
            docker = Docker(replace(prod, backup=replace(prod.backup, ping_url=url)))
            report = Report("scheduled", as_json=False)
            with pytest.raises(EngineError, match="no room"), backup_schedule.noted([docker].pop, report, "backup"):
                raise EngineError("backup", "no room", "look")
        server.shutdown()
    assert told == [hooks.AFTER_BACKUP_FAILURE] * 3
    assert "".join(capsys.readouterr()).count("warning: backup_ping_url did not answer") == 3


@pytest.mark.parametrize("what", ["backup", "drill"])
@pytest.mark.parametrize("hinders", ["locked", "recovery"])
def test_a_run_that_fails_before_it_begins_is_noted_and_told(
    prod: Stack, monkeypatch: pytest.MonkeyPatch, hinders: str, what: str
) -> None:
    told: list[str] = []
    releases.write(prod.root, releases.Record(id="one", env="prod", started="2026-01-01T00:00:00Z", state="good"))
    monkeypatch.setattr(cli, "load", lambda _root: prod)
    monkeypatch.setattr(backup_schedule, "ping", lambda _stack, _report, end="": told.append(end))
    monkeypatch.setattr(hooks, "warn", lambda _docker, moment, *_: told.append(moment))
    monkeypatch.setattr(lock, "FOLDER", prod.root)
    held = -1
    if hinders == "locked":
        held = lock.take(lock.place_of(prod.root), lock.owner("make deploy", "a@b"))
    else:

        def recover(*_: object) -> None:
            raise EngineError("recovery", "locked out", "look")

        pending.begin(prod.root, pending.Pending("one", pending.DEPLOY, "before"))
        monkeypatch.setattr(recovery, "recover", recover)
        monkeypatch.setattr(cli, "_take_up", lambda *_: None)
    try:
        assert cli.main(["--root", str(prod.root), "scheduled", what]) == 1
        # What somebody does by hand is seen by who does it.
        assert cli.main(["--root", str(prod.root), "backup"]) == 1
    finally:
        if held >= 0:
            os.close(held)
    (found,) = json.loads((prod.root / backup_schedule.RECORD).read_text()).items()
    assert (found[0], found[1]["ok"]) == (what, False)
    assert ("make deploy" if hinders == "locked" else "locked out") in found[1]["problem"]
    assert told == ["/fail", hooks.AFTER_BACKUP_FAILURE]


@pytest.mark.parametrize(
    ("rang", "service", "lost"),
    [
        (50.0, "inactive", True),
        (50.0, "failed", True),
        # It is at work.
        (50.0, "activating", False),
        (150.0, "inactive", False),
        # By a clock that was ahead; and what systemd writes of a timer that is new.
        (-9999.0, "inactive", False),
        (1000.0, "inactive", False),
    ],
)
def test_a_timer_that_rang_and_nothing_came_of_it_is_told(
    machine: Machine, prod: Stack, rang: float, service: str, lost: bool
) -> None:
    backup_schedule.install(prod)
    now = time.time()
    timer = f"{prod.project}-backup.timer"
    os.utime(machine.units / timer, (now - 1001, now - 1001))
    stamp = machine.stamps / f"stamp-{timer}"
    stamp.touch()
    os.utime(stamp, (now - rang, now - rang))
    machine.service.write_text(f"ActiveState={service}\n")
    # Nothing is known before the first run.
    assert "rang" not in backup_schedule.lines(backup_schedule.state(prod))[0]
    ended = now - 2000 if rang == 1000.0 else now - 90
    told = {"begun": ended - 10, "ended": ended, "ok": True, "backup": "one", "problem": ""}
    (prod.root / backup_schedule.RECORD).write_text(json.dumps({"backup": told, "drill": told}))
    first, second = backup_schedule.lines(backup_schedule.state(prod))
    assert (f"NOTHING came of it: journalctl -u {prod.project}-backup.service" in first) is lost
    assert second.endswith(", good")
