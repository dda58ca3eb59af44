"""Deploys that meet on hosts, over SSH: one goes on, the other is told by whom, and none leaves a lock behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.host_locks import held
from support.kit import ROOT
from testbed.hosts import Host, Run, borrowed
from testbed.image import USER

pytestmark = [pytest.mark.host, pytest.mark.slow]

DEPLOY_ROOT = "/srv/kit_test_lock"
SECONDS = 90
# Promised: a host is free so soon after the control node's process was killed.
FREE_SECONDS = 5.0


class Deploys:
    """Starts plays that lock two hosts."""

    def __init__(self, run: Run) -> None:
        self.hosts: tuple[Host, ...] = run.hosts
        self._inventory = run.inventory
        self.started: list[subprocess.Popen[str]] = []

    def start(
        self,
        seconds: int,
        wait: int = 0,
        user: str = "ada",
        playbook: str = "tests/e2e/lock.yml",
        only: str = "app",
        **others: str,
    ) -> subprocess.Popen[str]:
        """Start one that is at work for some seconds, as make starts one; on one host `only`, where that is wanted."""
        given: dict[str, Any] = {
            "kit_become": True,
            "kit_env": "prod",
            "kit_in_place": False,
            "lock_wait_seconds": wait,
            "preflight_python": "python3",
            "preflight_root": DEPLOY_ROOT,
            "preflight_timeout_seconds": 30,
            "test_seconds": seconds,
            **others,
        }
        words = ["-i", "inventories/prod", "-i", str(self._inventory), "-e", json.dumps(given), playbook]
        words += ["--limit", only] if only != "app" else []
        play = subprocess.Popen(
            [sys.executable, "plugins/play.py", *words],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8", "LOGNAME": user},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(play)
        return play

    def locked(self) -> list[bool]:
        """Whether somebody holds each host."""
        return [held(host) for host in self.hosts]

    def sessions(self) -> list[str]:
        """The process that is a session on each host."""
        return [
            host.run(f"pgrep -f '^[^ ]*python3 {DEPLOY_ROOT}.* session'; test $? -le 1").stdout for host in self.hosts
        ]

    def working(self, seconds: int, user: str = "ada") -> subprocess.Popen[str]:
        """Start one, and wait until it has all hosts."""
        play = self.start(seconds, user=user)
        limit = time.monotonic() + SECONDS
        while self.locked() != [True] * len(self.hosts):
            assert play.poll() is None, play.communicate()[0]
            assert time.monotonic() < limit
        return play


@pytest.fixture(scope="module")
def deploys() -> Iterator[Deploys]:
    """Two bare hosts: a lock wants Python and sudo, and no engine of Docker's."""
    with borrowed(hosts=2) as run:
        made = Deploys(run)
        yield made
        for play in made.started:
            play.kill()
            play.communicate()


def test_it_locks_works_and_lets_go(deploys: Deploys) -> None:
    play = deploys.start(0)
    said, _ = play.communicate(timeout=SECONDS)
    assert play.returncode == 0, said
    assert "WARNING" not in said
    assert deploys.locked() == [False, False]
    for host in deploys.hosts:
        # The engine that came before the lock was had is gone again, the step's own stays.
        assert host.run(f"ls {DEPLOY_ROOT}/bin; sudo find /tmp -name engine.pyz").stdout == "engine.pyz\n"


def test_the_second_is_refused_and_told_by_whom(deploys: Deploys) -> None:
    first = deploys.working(20, user="jürgen o'hara")
    second = deploys.start(0)
    said, _ = second.communicate(timeout=SECONDS)
    assert second.returncode != 0
    text = " ".join(said.split())
    assert "Another command is at work on this host since" in text
    assert "make deploy ENV=prod, user jürgen o'hara on" in text
    assert "Next: wait, or: make deploy ENV=prod WAIT=600" in text
    # The refused one took nothing from the first.
    assert deploys.locked() == [True, True]
    said, _ = first.communicate(timeout=SECONDS)
    assert first.returncode == 0, said


def test_a_second_is_refused_where_only_the_last_host_is_held_and_keeps_none(deploys: Deploys) -> None:
    first, last = sorted(deploys.hosts, key=lambda host: host.name)
    held = [host is last for host in deploys.hosts]
    holder = deploys.start(20, user="bob", only=last.name)
    limit = time.monotonic() + SECONDS
    while deploys.locked() != held:
        assert holder.poll() is None, holder.communicate()[0]
        assert time.monotonic() < limit
    play = deploys.start(0)
    said, _ = play.communicate(timeout=SECONDS)
    text = " ".join(said.split())
    assert play.returncode != 0
    assert "make deploy ENV=prod, user bob on" in text
    assert f"{first.name} : ok=2 changed=0 unreachable=0 failed=0" in text
    assert "Be at work" not in said
    # The first one's went with the play, the last one's is still its holder's.
    assert deploys.locked() == held
    said, _ = holder.communicate(timeout=SECONDS)
    assert holder.returncode == 0, said


def test_a_host_is_not_provisioned_meanwhile(deploys: Deploys) -> None:
    first = deploys.working(20)
    # Its known hosts are the bed's.
    second = deploys.start(0, playbook="playbooks/provision.yml")
    said, _ = second.communicate(timeout=SECONDS)
    assert second.returncode != 0
    assert "make deploy ENV=prod, user ada on" in " ".join(said.split())
    assert "Next: wait, or: make provision ENV=prod WAIT=600" in " ".join(said.split())
    assert "Look at the host and decide" not in said
    assert deploys.locked() == [True, True]
    said, _ = first.communicate(timeout=SECONDS)
    assert first.returncode == 0, said


def test_a_killed_one_frees_its_hosts_and_the_next_goes_on(deploys: Deploys) -> None:
    first = deploys.working(60)
    first.send_signal(signal.SIGKILL)
    first.wait()
    begun = time.monotonic()
    while deploys.locked() != [False, False]:
        assert time.monotonic() - begun < FREE_SECONDS
    second = deploys.start(0)
    said, _ = second.communicate(timeout=SECONDS)
    assert second.returncode == 0, said


def test_one_that_waits_has_its_turn(deploys: Deploys) -> None:
    first = deploys.working(8)
    second = deploys.start(0, wait=60)
    said, _ = second.communicate(timeout=SECONDS)
    assert second.returncode == 0, said
    assert "user ada on" in said
    assert "Waiting up to 60 s" in said
    assert first.wait(SECONDS) == 0


def test_a_second_deploy_finds_its_sessions_begun(deploys: Deploys, tmp_path: Path) -> None:
    go, playbook = tmp_path / "go", tmp_path / "deploy.yml"
    before = f"""  tasks:
    - name: Take a while, as Ansible may
      ansible.builtin.wait_for: {{path: {go}, timeout: {SECONDS}}}
      delegate_to: localhost
      run_once: true
"""
    playbook.write_text((ROOT / "tests/e2e/lock.yml").read_text().replace("  tasks:\n", before, 1))
    go.touch()
    first = deploys.start(0, playbook=str(playbook))
    said, _ = first.communicate(timeout=SECONDS)
    assert first.returncode == 0, said
    go.unlink()
    second = deploys.start(10, playbook=str(playbook))
    limit = time.monotonic() + SECONDS
    while not all(deploys.sessions()):
        assert second.poll() is None, second.communicate()[0]
        assert time.monotonic() < limit
    begun = deploys.sessions()
    # Nothing is locked by it.
    assert deploys.locked() == [False, False]
    go.touch()
    while deploys.locked() != [True, True]:
        assert second.poll() is None, second.communicate()[0]
        assert time.monotonic() < limit
    assert deploys.sessions() == begun
    said, _ = second.communicate(timeout=SECONDS)
    assert second.returncode == 0, said
    assert deploys.sessions() == ["", ""]


@pytest.mark.parametrize("asks", [False, True])
def test_a_password_for_sudo_is_given_whether_it_asks_or_not(deploys: Deploys, asks: bool) -> None:
    # One that no session may take for its end or a heartbeat.
    password = "q. o'clock"  # noqa: S105 - of a host that is thrown away
    rule = f"/etc/sudoers.d/{USER}-lock"
    for host in deploys.hosts:
        host.run("sudo chpasswd", stdin=f"{USER}:{password}\n".encode())
        if asks:
            host.run(f"echo '{USER} ALL=(ALL) PASSWD: ALL' > /tmp/rule; sudo install -m 0440 /tmp/rule {rule}")
    try:
        if asks:
            assert "password" in deploys.hosts[0].run("sudo -n true", check=False).stderr
        play = deploys.start(0, ansible_become_password=password)
        said, _ = play.communicate(timeout=SECONDS)
        assert play.returncode == 0, said
        assert "WARNING" not in said
        assert password not in said
    finally:
        for host in deploys.hosts:
            if asks:
                host.run(f"sudo -S rm {rule}", stdin=f"{password}\n".encode())
    assert deploys.locked() == [False, False]
