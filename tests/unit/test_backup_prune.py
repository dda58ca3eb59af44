"""Which backups stay."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kit_engine import backup, backup_prune
from kit_engine.stack import Backups
from kit_engine.verification import SEALED_SCHEMA, sealed

KEEP = Backups()
DAY = 86_400
# Monday, the last day of a month that has five weeks.
NOW = 1_796_040_000


def made(age: float, kind: str = backup.SCHEDULED, problem: str = "") -> dict[str, Any]:
    """A backup that was made some days ago."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(NOW - age * DAY))
    return {"id": f"{stamp}-one", "kind": kind, "made": NOW - age * DAY, "problem": problem}


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


def test_one_night_in_the_future_takes_no_later_nights_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids go on behind it by seconds; what counts is when each was made."""
    for night in range(60):
        clock = NOW + night * DAY + (5 * 365 * DAY if night == 10 else 0)
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        given = backup.free_id(tmp_path, "one")
        folder = tmp_path / backup.FOLDER / given
        folder.mkdir(parents=True)
        told = {"id": given, "schema": SEALED_SCHEMA, "kind": backup.SCHEDULED, "level": "read", "made": clock}
        (folder / backup.MANIFEST).write_text(json.dumps(sealed(told)))
        plan = backup_prune.planned(backup.listed(tmp_path), KEEP)
        for gone in plan.removed:
            shutil.rmtree(tmp_path / backup.FOLDER / gone)
    left = [one for one in backup.listed(tmp_path) if one["made"] <= NOW + 59 * DAY]
    assert [round((NOW + 59 * DAY - one["made"]) / DAY) for one in left[:7]] == list(range(7))
    weeks = {time.strftime("%G-W%V", time.gmtime(one["made"])) for one in left}
    assert len(weeks) >= 4
    assert {time.strftime("%Y-%m", time.gmtime(one["made"])) for one in left} >= {
        time.strftime("%Y-%m", time.gmtime(NOW + night * DAY)) for night in range(60)
    }


def test_a_backup_of_the_first_schema_was_made_when_its_id_says() -> None:
    told = backup.read(json.dumps({"id": "20260101T000000Z-a", "schema": 1}), "20260101T000000Z-a")
    assert told is not None
    assert told["made"] == backup.time_of(told["id"])


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
