"""Verbs of the control node's own, in a fork of a process whose standard streams lead elsewhere, as a task's do."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import IO, Any, cast

import pytest
from support.sessions import TEST_VERB, Programs, until

# A task's worker has these closed, or text buffers in their place; its time limit is an alarm.
TASK = f"""{TEST_VERB}
import io, signal
from kit_control import engine_here

class Limit(Exception):
    pass

def late(*_):
    raise Limit

def show(text):
    shown.append(text)
    # From then on it is at work, however slow this machine is.
    if "begun" in text:
        signal.setitimer(signal.ITIMER_REAL, float(sys.argv[3]))

told, shown = os.fdopen(os.dup(1), "w"), []
sys.stdin.close()
sys.stdout = sys.stderr = io.StringIO()
signal.signal(signal.SIGALRM, late)
try:
    words = ["--root", sys.argv[1], "test", "--json", "--request", sys.argv[2]]
    done = engine_here.run(words, b"x" * 300000, show)
except Limit:
    done = "limit"
print(json.dumps([done, "".join(shown)]), file=told, flush=True)
"""


def run(programs: Programs, root: Path, limit: float = 60, **asked: Any) -> tuple[Any, str]:
    """Run the verb in such a process; how it ended, and what was told on the way."""
    request = json.dumps({"note": str(root / "note"), **asked})
    task = programs.start("-c", TASK, str(root), request, str(limit))
    done, shown = json.loads(cast("IO[str]", task.stdout).readline())
    assert task.wait(20) == 0
    return done, shown


def test_a_verb_reads_tells_and_answers(root: Path, programs: Programs) -> None:
    done, shown = run(programs, root, seconds=0.5)
    assert (done["rc"], done["stderr"], shown) == (0, "", "begun\nhalf…\n")
    assert json.loads(done["stdout"])["size"] == 300_000
    assert (root / "note").read_text() == "done"


@pytest.mark.parametrize(("asked", "code"), [({"fails": True}, 1), ({"dies": True}, -signal.SIGKILL)])
def test_a_verb_that_fails_says_so(root: Path, programs: Programs, asked: dict[str, bool], code: int) -> None:
    done, shown = run(programs, root, **asked)
    assert done["rc"] == code
    assert ("It is broken." in shown) == ("fails" in asked)


def test_a_verb_ends_with_its_task(root: Path, programs: Programs) -> None:
    done, _ = run(programs, root, limit=0.1, seconds=60)
    assert done == "limit"
    until(lambda: (root / "note").read_text() == "interrupted")
