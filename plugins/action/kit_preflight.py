"""Judge a host for a stack that it does not have yet; leaves nothing on it.

A host alone is locked in the same step where there is something to do: of several, all are judged before any is locked.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from kit_control import engine_call, host_lock, site_names, smoke
from kit_control.action import KitAction
from kit_control.errors import KitError

# Tokens and certificates are judged by the clock; a minute is what Kerberos' five and TOTP's half have between them.
MOST_SECONDS_APART = 60


class ActionModule(KitAction):
    """Arguments: ``root``, ``python`` (as of kit_engine), ``stack`` (its description), ``images`` (references of those
    that it runs), ``names`` (of the site, that shall lead to the host), ``addresses`` (of the site besides SSH's),
    ``configuration`` (hash of the release that is wanted; empty: nothing is compared), ``lock`` (of a host alone: the
    argument ``order`` of kit_lock; empty: it is not locked), ``gate`` (whether the smoke checks judge it in the end:
    refused where they cannot reach it)."""

    _VALID_ARGS = frozenset(
        {"root", "python", "stack", "images", "names", "addresses", "configuration", "lock", "gate"}
    )

    def work(self) -> dict[str, Any]:
        """Judge, and lock where that is wanted; see the module's docstring."""
        given = self._task.args
        if given["gate"]:
            smoke.connection_of(self)
        told = self._judged()
        if told.get("failed") or told["stands"] or not given["lock"] or self._task.check_mode:
            return self._told(told)
        held = host_lock.take(self, Path(given["root"]), str(given["python"]), host_lock.ordered(given["lock"]))
        if held.get("failed"):
            return {**held, "warnings": told.get("warnings", [])}
        if held["waited"]:
            # Whoever was waited for has changed what was judged.
            told = self._judged()
        return self._told(told if told.get("failed") else {**told, "lock": held})

    def _told(self, told: dict[str, Any]) -> dict[str, Any]:
        if told.get("stands"):
            stack = self._task.args["stack"]
            self.say(f"{stack['name']} ({stack['env']}) is up to date: release {told['release']}")
        return told

    def _judged(self) -> dict[str, Any]:
        """Ask the engine, then compare the clocks."""
        given = self._task.args
        words = ["--request", json.dumps({"stack": given["stack"], "images": given["images"]})]
        names = site_names.Lookups(given.get("names") or [], [self.address, *(given.get("addresses") or [])])
        begun = time.time()
        told = engine_call.call(self, Path(given["root"]), str(given["python"]), "preflight", words)
        if told.get("failed"):
            return told
        self._compare_clocks(begun, float(told["time"]), time.time())
        elsewhere = names.warnings(
            self.host, "correct the name in DNS, or write site_addresses where the site is reached by another one"
        )
        if elsewhere:
            told["warnings"] = elsewhere
        there = told["current"]
        stands = there["serves"] and there["configuration"] == (given["configuration"] or None)
        if not stands or not all(told["images"]["images"].values()):
            return {**told, "stands": False}
        return {**told, "stands": True, "release": there["id"]}

    def _compare_clocks(self, begun: float, told: float, ended: float) -> None:
        apart = max(begun - told, told - ended)
        if apart > MOST_SECONDS_APART:
            raise KitError(
                "clock",
                f"The clock of {self.host} is {apart:.0f} s apart from this machine's: certificates and tokens would "
                "be judged wrongly.",
                f"timedatectl    (on {self.host}: is the time synchronised?); make provision sets that up",
            )
