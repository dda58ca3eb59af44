"""What the smoke gate loads before its first check: a deploy waits for it."""

from __future__ import annotations

import os
import subprocess
import sys

from support.kit import ROOT


def test_the_checks_load_no_ansible_and_no_schema() -> None:
    script = "import sys, smoke.conftest; print(sorted({'ansible', 'jsonschema'} & set(sys.modules)))"
    paths = os.pathsep.join(str(ROOT / one) for one in ("tests", "plugins/module_utils"))
    words = [sys.executable, "-c", script]
    env = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
