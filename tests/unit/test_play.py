"""How make starts Ansible."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.kit import ROOT

PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Say something
      ansible.builtin.debug: {msg: begun}
    - name: Take long
      talk:
"""
# As the kit's own do while they wait for a host.
TALK = """
import time
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        for _ in range(40):
            time.sleep(0.1)
            Display().display("still at it")
        return {"changed": False}
"""
# Of a loaded machine; it is over in one.
PATIENCE_SECONDS = 30


def test_it_ends_when_nobody_reads_it_any_more(tmp_path: Path) -> None:
    (tmp_path / "play.yml").write_text(PLAY)
    (tmp_path / "action_plugins").mkdir()
    (tmp_path / "action_plugins/talk.py").write_text(TALK)
    words = [sys.executable, "plugins/play.py", "-i", "localhost,", str(tmp_path / "play.yml")]
    with subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as running:
        try:
            for line in running.stdout or ():
                if b"still at it" in line:
                    break
            running.stdout.close()  # type: ignore[union-attr]  # it is a pipe
            assert running.wait(PATIENCE_SECONDS) != 0
        finally:
            running.kill()


def test_its_exit_status_is_ansibles(tmp_path: Path) -> None:
    (tmp_path / "play.yml").write_text(PLAY.replace("talk:", "ansible.builtin.command: 'false'"))
    words = [sys.executable, "plugins/play.py", "-i", "localhost,", str(tmp_path / "play.yml")]
    done = subprocess.run(words, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
    assert done.returncode == 2
