"""Which backups stay."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from kit_engine import backup, backup_prune
from kit_engine.stack import Backups

KEEP = Backups()
DAY = 86_400
# Monday, the last day of a month that has five weeks.
NOW = 1_796_040_000


def made(age: float, kind: str = backup.SCHEDULED, problem: str = "") -> dict[str, Any]:
    """A backup that was made some days ago."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(NOW - age * DAY))
    return {"id": f"{stamp}-one", "kind": kind, "problem": problem}


def kept(found: list[dict[str, Any]], keep: Backups = KEEP) -> set[str]:
    """Ids of those that stay; all others go."""
    plan = backup_prune.planned(found, keep)
    assert set(plan.kept) | set(plan.removed) == {one["id"] for one in found if not one["problem"]}
    assert set(plan.kept).isdisjoint(plan.removed)
    return set(plan.kept)


def test_of_two_years_of_nights_days_weeks_and_months_stay() -> None:
    found = [made(age) for age in range(730)]
    plan = backup_prune.planned(found, KEEP)
    whys = list(plan.kept.values())
    assert [one["id"] for one in found[:7]] == list(plan.kept)[:7]
    # A backup that is the last of a week too is kept once.
    assert sum(why.startswith("daily") for why in whys) == 6
    assert sum(why.startswith("weekly") for why in whys) <= 4
    assert sum(why.startswith("monthly") for why in whys) <= 6
    oldest = time.strftime("%Y-%m", time.gmtime(backup.time_of(min(plan.kept))))
    this = time.gmtime(NOW)
    assert oldest == f"{this.tm_year}-{this.tm_mon - 5:02}"
    assert len(plan.kept) + len(plan.removed) == 730
    # The next night loses none of the days that were kept for a week or a month.
    again = backup_prune.planned([made(-1), *[one for one in found if one["id"] in plan.kept]], KEEP)
    assert len(again.removed) <= 2


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_number_means_that_number(number: int) -> None:
    daily = replace(KEEP, keep_daily=number, keep_weekly=0, keep_monthly=0, keep_releases=0)
    found = [made(age) for age in (0.1, 0.2, 1.1, 1.2, 2.1, 3.1, 4.1)]
    # The last of each day; the newest of all whatever the number.
    wanted = [found[index]["id"] for index in (0, 2, 4)[: max(1, number)]]
    assert kept(found, daily) == set(wanted)


def test_those_of_other_kinds_are_counted_apart() -> None:
    keep = replace(KEEP, keep_daily=2, keep_weekly=0, keep_monthly=0, keep_releases=3)
    nights = [made(age) for age in (1, 2, 3)]
    releases = [made(age, backup.RELEASE) for age in (0.1, 0.2, 2.5, 2.6, 2.7)]
    mine = [made(age, backup.MANUAL) for age in (0.3, 9, 10, 11)]
    found = sorted([*nights, *releases, *mine], key=lambda one: str(one["id"]), reverse=True)
    assert kept(found, keep) == {one["id"] for one in (*nights[:2], *releases[:3], *mine[:3])}


def test_a_bad_one_takes_no_good_ones_place_and_is_left_to_people() -> None:
    keep = replace(KEEP, keep_daily=1, keep_weekly=0, keep_monthly=0, keep_releases=0)
    bad, good = made(0.1, problem="media is missing"), made(1)
    plan = backup_prune.planned([bad, good, made(2)], keep, [bad["id"], good["id"], "20200101T000000Z-broken"])
    assert set(plan.kept) == {good["id"]}
    assert plan.removed == [made(2)["id"]]
    assert plan.unknown == [bad["id"], "20200101T000000Z-broken"]
