"""How long an unchanged deploy takes, against a plain shell script that does what it cannot leave out."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from support.checkout import changed

from bench.figures import Timed, UnfitError, floor_steps
from bench.stack import ROOT, SITE, Stack

PAIRS = 5
FLOOR = Path(__file__).with_name("floor")
FLOOR_SECONDS = 60


def pairs(stack: Stack) -> tuple[list[Timed], list[Timed]]:
    """Run both in turn.

    Args:
        stack: is up, and was deployed from its checkout as it is.

    Returns:
        The runs of the floor and of the deploy.

    Raises:
        UnfitError: one of them failed, or found something to change.
    """
    floors, deploys = [], []
    for _ in range(PAIRS):
        floors.append(_floor(stack))
        deploys.append(_deploy(stack))
    return floors, deploys


def _floor(stack: Stack) -> Timed:
    host, folder = stack.host.name, stack.kit.path
    words = [str(FLOOR), str(stack.host.folder / "ssh_config"), host, ROOT, stack.project, SITE]
    begun = time.monotonic()
    done = subprocess.run(
        [*words, str(folder / f"build/prod/hosts/{host}")],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=FLOOR_SECONDS,
        check=False,
    )
    seconds = time.monotonic() - begun
    steps = floor_steps(done.stdout)
    if done.returncode or list(steps)[-1:] != ["site"]:
        raise UnfitError(f"{FLOOR.name} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return Timed(seconds, steps)


def _deploy(stack: Stack) -> Timed:
    # Each one opens its own connection, as the floor does: one that is left from the last would flatter it.
    stack.hang_up()
    begun = time.monotonic()
    said = stack.make("deploy")
    seconds = time.monotonic() - begun
    if changed(said) != {0}:
        raise UnfitError(f"An unchanged deploy changed something:\n{said}")
    told = json.loads((stack.kit.path / "build/prod/result.json").read_text(encoding="utf-8"))
    steps = {str(step["step"]): float(step["seconds"]) for step in told["steps"]}
    # Before the first task and after the last one: make, Ansible's start, and its end.
    return Timed(seconds, {"make and Ansible's start and end": seconds - sum(steps.values()), **steps})


def processors() -> int:
    """How many processors all of it had."""
    return len(os.sched_getaffinity(0))
