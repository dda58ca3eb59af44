"""What `make bench` makes of its measurements, and that its yardstick is as short as was promised."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from bench import figures
from bench import releases as bench_releases
from bench.backups import Measured
from bench.figures import Bar, Timed, UnfitError
from support.host_releases import given_up_after
from support.kit import ROOT

FLOOR = ROOT / "tests/bench/floor"
AB = """\
Concurrency Level:      16
Complete requests:      1234
Failed requests:        0
Requests per second:    205.55 [#/sec] (mean)
"""
RATES = [
    {"static": 950.0, "bare": 1000.0, "view": 90.0, "gunicorn": 100.0},
    {"static": 500.0, "bare": 1000.0, "view": 80.0, "gunicorn": 100.0},
    {"static": 920.0, "bare": 1000.0, "view": 86.0, "gunicorn": 100.0},
]
IDLE = {"as shipped": {"web": 240.0, "db": 30.0}, "one worker process": {"web": 70.0, "db": 30.0}}


def test_the_floor_is_short_plain_and_never_sleeps() -> None:
    lines = FLOOR.read_text().splitlines()
    assert len(lines) <= 40
    assert max(len(line) for line in lines) <= 120
    assert lines[0] == "#!/bin/sh"
    assert "sleep" not in FLOOR.read_text()
    assert sum(" -M " in line for line in lines) == 1


def test_the_floor_is_clean() -> None:
    program = shutil.which("shellcheck", path=str(ROOT / ".venv/bin")) or "shellcheck"
    done = subprocess.run([program, str(FLOOR)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_medians_are_taken_of_each_figure() -> None:
    runs = [Timed(3.0, {"a": 1.0, "b": 0.1}), Timed(9.0, {"a": 0.5, "b": 0.3}), Timed(4.0, {"a": 2.0, "b": 0.2})]
    assert figures.middle(runs) == Timed(4.0, {"a": 1.0, "b": 0.2})


def test_runs_with_other_steps_are_no_pairs() -> None:
    with pytest.raises(UnfitError, match="different steps"):
        figures.middle([Timed(1.0, {"a": 1.0}), Timed(1.0, {"b": 1.0})])


def test_steps_of_the_floor_are_read() -> None:
    assert figures.floor_steps("version 65\nnoise of ssh 7 times\nconnect 1250\n") == {
        "version": 0.065,
        "connect": 1.25,
    }


def test_a_rate_is_read() -> None:
    assert figures.rate(AB) == 205.55


@pytest.mark.parametrize(
    "said", ["", AB.replace("requests:        0", "requests:        3"), AB + "Non-2xx responses:      1234\n"]
)
def test_a_rate_of_bad_answers_is_none(said: str) -> None:
    with pytest.raises(UnfitError, match="not all good"):
        figures.rate(said)


def test_memory_of_processes_is_added() -> None:
    rollup = "Rss:  9999 kB\nPss:  {} kB\nPss_Anon:  77 kB\n"
    assert figures.proportional_set(rollup.format(1024) + rollup.format(2048)) == 3.0


def test_every_bar_is_judged_by_the_median() -> None:
    judged = figures.bars(Timed(1.0, {}), Timed(2.9, {}), RATES, IDLE)
    assert [(bar.found, bar.kept) for bar in judged] == [
        (2.9, True), (2.9, True), (0.92, True), (0.86, True), (100.0, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("floor", "deploy", "rates", "idle", "missed"),
    [
        (1.0, 3.1, RATES, IDLE, ["3 times the floor"]),
        (2.0, 4.1, RATES, IDLE, ["at most 4 s"]),
        (1.0, 2.0, [{**RATES[0], "static": 899.0}], IDLE, ["90% of a bare nginx"]),
        (1.0, 2.0, [{**RATES[0], "view": 84.0}], IDLE, ["85% of straight Gunicorn"]),
        (1.0, 2.0, RATES, {"one worker process": {"web": 301.0}}, ["at most 300 MB"]),
    ],
)
def test_a_bar_that_is_missed_is_named(
    floor: float, deploy: float, rates: list[dict[str, float]], idle: dict[str, dict[str, float]], missed: list[str]
) -> None:
    judged = figures.bars(Timed(floor, {}), Timed(deploy, {}), rates, idle)
    found = [bar.text for bar in judged if not bar.kept]
    assert len(found) == len(missed)
    assert all(word in text for word, text in zip(missed, found, strict=True))
    said = figures.table(Timed(floor, {"connect": 0.2}), Timed(deploy, {}), rates, idle, judged)
    assert f"MISSED {found[0]}" in said
    assert "connect" in said


def test_a_bar_itself_is_kept() -> None:
    assert Bar("", 3.0, 3.0).kept
    assert Bar("", 0.9, 0.9, at_most=False).kept


def test_times_are_of_pairs_and_not_of_medians() -> None:
    # The machine was half as fast for a while.
    done = Measured({"ours": [1.1, 1.1, 2.2, 2.2, 1.1], "bare": [1.0, 1.0, 2.0, 2.0, 2.0]})
    assert done.times("ours", "bare") == pytest.approx(1.1)


def test_how_soon_a_release_was_given_up_is_of_the_step_that_failed() -> None:
    events = [("check", "begin", 1.0), ("check", "end", 2.0), ("healthy", "begin", 3.0), ("healthy", "failed", 7.5),
              ("go back: drain", "begin", 8.0), ("go back: drain", "failed", 99.0)]  # fmt: skip
    journal = "\n".join(json.dumps({"time": when, "step": step, "event": event}) for step, event, when in events)
    assert given_up_after(journal) == 4.5


@pytest.mark.parametrize(("said", "serves"), [("it ended", "old"), ("no such column", "new")])
def test_a_failed_deploy_that_tells_no_cause_or_changed_what_serves_is_no_measurement(
    monkeypatch: pytest.MonkeyPatch, said: str, serves: str
) -> None:
    bed = bench_releases.Bed.__new__(bench_releases.Bed)
    monkeypatch.setattr(bench_releases, "version", lambda _bed: serves)
    with pytest.raises(UnfitError):
        bench_releases._demand_refused(bed, said, "no such column", "old")


def test_one_that_does_both_is(monkeypatch: pytest.MonkeyPatch) -> None:
    bed = bench_releases.Bed.__new__(bench_releases.Bed)
    monkeypatch.setattr(bench_releases, "version", lambda _bed: "old")
    bench_releases._demand_refused(bed, "psycopg: no such column x", "no such column", "old")
