"""The results of the smoke checks, as people and programs read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"
# A message names so many failed checks; the report has them all.
_NAMED = 8


def summary(told: Mapping[str, Any]) -> str:
    """Count one host's results."""
    return f"{told[PASSED]} passed, {told[FAILED]} failed, {told['not_run']} not run"


def table(results: Mapping[str, Any]) -> Iterator[str]:
    """Print the results for people, a host at a time; checks that differ only in their subject share a line.

    Args:
        results: of :func:`run`.
    """
    for host, told in results["hosts"].items():
        yield f"{results['env']} {host}"
        for outcome in (PASSED, NOT_RUN, FAILED):
            mine = [check for check in told["checks"] if check["outcome"] == outcome]
            for (name, reason), group in groupby(mine, key=lambda check: (check["check"], check["reason"])):
                subjects = ", ".join(check["subject"] for check in group if check["subject"])
                word = outcome.upper() if outcome == FAILED else outcome
                yield f"  {word:<8} {name}{': ' if subjects else ''}{subjects}"
                if reason:
                    yield f"           {reason}"
        for service, log in told["logs"].items():
            yield f"  The end of {service}'s log:"
            yield from log.splitlines()
        yield f"  {summary(told)}"
    yield f"{results['seconds']:.1f} s"


def failed(results: Mapping[str, Any]) -> list[str]:
    """Name the failed checks with their reasons, a few of each host.

    Args:
        results: as they stand in smoke.json.
    """
    lines = []
    for host, told in results["hosts"].items():
        found = [check for check in told["checks"] if check["outcome"] == FAILED]
        lines += [f"{host}: {_named(check)}: {check['reason']}" for check in found[:_NAMED]]
        if len(found) > _NAMED:
            lines.append(f"{host}: {len(found) - _NAMED} more, in smoke.json")
    return lines


def _named(check: Mapping[str, Any]) -> str:
    return f"{check['check']}: {check['subject']}" if check["subject"] else str(check["check"])
