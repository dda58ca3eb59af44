"""What the smoke gate loads before its first check: a deploy waits for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from kit_engine import signals
from support.kit import ROOT
from support.sessions import until


def test_the_checks_load_no_ansible_and_no_schema() -> None:
    script = "import sys, smoke.conftest; print(sorted({'ansible', 'jsonschema'} & set(sys.modules)))"
    paths = os.pathsep.join(str(ROOT / one) for one in ("tests", "plugins/module_utils"))
    words = [sys.executable, "-c", script]
    env = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_a_gate_that_nobody_wants_any_more_ends(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from kit_control import smoke; "
        "smoke.begin_ahead(Path(sys.argv[1]), Path(sys.argv[2])); print(smoke._Ahead.started.program.pid); "
        # It is there as long as we are.
        "time.sleep(3); print(smoke._Ahead.started.program.poll())"
    )
    words = [sys.executable, "-c", script, str(ROOT), str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "plugins/module_utils")}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=True)
    pid, ended = done.stdout.split()
    assert ended == "None"
    until(lambda: not signals.runs(int(pid)))


def test_checks_that_run_end_with_whoever_wanted_them() -> None:
    script = (
        "import sys, threading, time; from smoke import conftest; waits = int(sys.argv[1]); conftest._end_with(waits); "
        "threading.Thread(target=conftest._end_with, args=(waits,), daemon=True).start(); print('begun', flush=True); "
        "time.sleep(60)"
    )
    waits, wanted = os.pipe()
    paths = os.pathsep.join(str(ROOT / one) for one in ("tests", "plugins/module_utils"))
    words = [sys.executable, "-c", script, str(waits)]
    with subprocess.Popen(
        words, env={**os.environ, "PYTHONPATH": paths}, pass_fds=[waits], stdout=subprocess.PIPE, text=True
    ) as checks:
        os.close(waits)
        os.write(wanted, b"\n")
        assert checks.stdout
        assert checks.stdout.readline() == "begun\n"
        assert checks.poll() is None
        os.close(wanted)
        assert checks.wait(20) == 2
