"""From what was measured to figures, bars and a table; nothing here measures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

# An unchanged deploy against tests/bench/floor, and by the clock.
MOST_TIMES_FLOOR, MOST_SECONDS = 3.0, 4.0
# nginx as deployed against a bare one on the same file; the view through it against Gunicorn without it.
LEAST_OF_BARE, LEAST_OF_GUNICORN = 0.90, 0.85
MOST_IDLE_MB = 300.0


class UnfitError(Exception):
    """Something did not go as it must for a figure to mean anything."""


@dataclass(frozen=True)
class Timed:
    """One run of something: seconds by the clock, and those of its steps in their order."""

    seconds: float
    steps: Mapping[str, float]


@dataclass(frozen=True)
class Bar:
    """A promise, and what was measured.

    Attributes:
        text: what is promised.
        found: the figure.
        limit: what it may be at most, or at least.
        at_most: which of both.
    """

    text: str
    found: float
    limit: float
    at_most: bool = True

    @property
    def kept(self) -> bool:
        """Whether the promise is kept."""
        return self.found <= self.limit if self.at_most else self.found >= self.limit


def middle(runs: Sequence[Timed]) -> Timed:
    """Take the median of each figure of several runs.

    Args:
        runs: at least one, all with the same steps.

    Returns:
        Medians; the steps' need not add up to that of the whole.
    """
    names = list(runs[0].steps)
    if any(list(run.steps) != names for run in runs):
        raise UnfitError(f"The runs had different steps: {sorted({tuple(run.steps) for run in runs})}")
    return Timed(median(run.seconds for run in runs), {name: median(run.steps[name] for run in runs) for name in names})


def floor_steps(said: str) -> dict[str, float]:
    """Read what tests/bench/floor prints.

    Args:
        said: a line a step: its name, and milliseconds.

    Returns:
        Seconds by step.
    """
    return {name: int(milliseconds) / 1000 for name, milliseconds in re.findall(r"^(\w+) (\d+)$", said, re.MULTILINE)}


def rate(said: str) -> float:
    """Read what `ab` found out.

    Args:
        said: its output.

    Returns:
        Requests a second.

    Raises:
        UnfitError: a request failed, or was answered with another status than 200.
    """
    found = re.search(r"^Requests per second:\s+([\d.]+)", said, re.MULTILINE)
    failed = re.search(r"^Failed requests:\s+(\d+)", said, re.MULTILINE)
    if not found or not failed or int(failed[1]) or "Non-2xx responses" in said:
        raise UnfitError(f"The answers were not all good:\n{said}")
    return float(found[1])


def proportional_set(smaps: str) -> float:
    """Add up the Pss lines of several /proc/<pid>/smaps_rollup; megabytes of 2^20 bytes."""
    return sum(int(kilobytes) for kilobytes in re.findall(r"^Pss:\s+(\d+) kB$", smaps, re.MULTILINE)) / 1024


def bars(
    floor: Timed, deploy: Timed, rates: Sequence[Mapping[str, float]], idle_mb: Mapping[str, Mapping[str, float]]
) -> list[Bar]:
    """Judge all figures.

    Args:
        floor: medians of the yardstick.
        deploy: medians of the deploy.
        rates: by round, requests a second of ``static``, ``bare``, ``view`` and ``gunicorn``; what is compared is of
            one round, since a busy machine slows all of it.
        idle_mb: megabytes by service, ``as shipped``, and with ``one worker process`` of Gunicorn.
    """
    idle = sum(idle_mb["one worker process"].values())
    return [
        Bar(f"an unchanged deploy takes at most {MOST_TIMES_FLOOR:.0f} times the floor",
            deploy.seconds / floor.seconds, MOST_TIMES_FLOOR),
        Bar(f"an unchanged deploy takes at most {MOST_SECONDS:.0f} s", deploy.seconds, MOST_SECONDS),
        Bar(f"nginx serves a static file at {LEAST_OF_BARE:.0%} of a bare nginx",
            median(one["static"] / one["bare"] for one in rates), LEAST_OF_BARE, at_most=False),
        Bar(f"the view through nginx at {LEAST_OF_GUNICORN:.0%} of straight Gunicorn",
            median(one["view"] / one["gunicorn"] for one in rates), LEAST_OF_GUNICORN, at_most=False),
        Bar(f"idle with one worker process: at most {MOST_IDLE_MB:.0f} MB", idle, MOST_IDLE_MB),
    ]  # fmt: skip


def table(
    floor: Timed,
    deploy: Timed,
    rates: Sequence[Mapping[str, float]],
    idle_mb: Mapping[str, Mapping[str, float]],
    judged: Sequence[Bar],
) -> str:
    """Write all of it for people.

    Args:
        floor: as of :func:`bars`.
        deploy: as of :func:`bars`.
        rates: as of :func:`bars`.
        idle_mb: as of :func:`bars`.
        judged: of :func:`bars`.
    """
    lines = []
    for title, run in (("floor", floor), ("unchanged deploy", deploy)):
        lines += [f"{title:<62}{run.seconds:8.2f} s"]
        lines += [f"  {name:<60}{seconds:8.2f} s" for name, seconds in run.steps.items()]
    lines += ["requests a second"]
    lines += [f"  {name:<60}{median(one[name] for one in rates):8.0f}" for name in rates[0]]
    for title, services in idle_mb.items():
        lines += [f"idle memory (PSS), {title:<43}{sum(services.values()):8.0f} MB"]
        lines += [f"  {name:<60}{found:8.0f} MB" for name, found in services.items()]
    lines += [""]
    lines += [f"{'ok    ' if bar.kept else 'MISSED'} {bar.text}: {bar.found:.2f}" for bar in judged]
    return "\n".join(lines)
