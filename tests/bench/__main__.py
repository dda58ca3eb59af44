"""Measure, print a table, write build/bench/bench.json; the exit status is not 0 where a promise is not kept."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from testbed.errors import TestbedError

from bench import deploys, load, stack
from bench.figures import UnfitError, bars, middle, table

RESULTS = Path(__file__).resolve().parents[2] / "build/bench"
# After a deploy: until health checks and autovacuum have had their turn.
SETTLE_SECONDS = 20


def main() -> int:
    """Measure all.

    Returns:
        0, or 1 where a promise is not kept, or nothing could be measured.
    """
    # A host of its own is taken down, however this ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    scratch = RESULTS / "checkout"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.parent.mkdir(parents=True, exist_ok=True)
    try:
        with stack.deployed(scratch) as up:
            time.sleep(SETTLE_SECONDS)
            floors, unchanged = deploys.pairs(up)
            time.sleep(SETTLE_SECONDS)
            idle = {"as shipped": up.idle_mb()}
            rates = load.rounds(up)
            up.make("deploy", "-e release_bundle_web_workers=1")
            time.sleep(SETTLE_SECONDS)
            idle["one worker process"] = up.idle_mb()
    except (UnfitError, TestbedError, AssertionError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    floor, deploy = middle(floors), middle(unchanged)
    judged = bars(floor, deploy, rates, idle)
    told = {
        "schema": 1,
        "processors": deploys.processors(),
        "load_average": os.getloadavg()[2],
        "floor": [asdict(run) for run in floors],
        "deploy": [asdict(run) for run in unchanged],
        "requests_per_second": rates,
        "idle_mb": idle,
        "bars": [{**asdict(bar), "kept": bar.kept} for bar in judged],
    }
    (RESULTS / "bench.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    print(table(floor, deploy, rates, idle, judged))
    return 0 if all(bar.kept for bar in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
