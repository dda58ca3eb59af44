"""The host itself: clock, disk, logs, timers."""

from __future__ import annotations

import pytest

from smoke.checked import CLOCK_SECONDS, Checked
from smoke.remote import NoAnswer
from smoke.target import Target

# What an app that rotates its logs never comes near.
LARGEST_LOG = 256 * 2**20


def test_clock_is_right(checked: Checked) -> None:
    try:
        begun, told, ended = checked.told
    except NoAnswer:
        pytest.skip("the host told no facts")
    apart = max(begun - told["time"], told["time"] - ended)
    assert apart <= CLOCK_SECONDS, f"it is {apart:.0f} s apart from this machine's"


@pytest.mark.gate
def test_disk_has_room(target: Target, checked: Checked) -> None:
    wanted = target.stack["limits"]["min_free_bytes"]
    for disk in checked.facts["disks"]:
        free = f"{disk['path']} has {disk['free'] / 2**30:.1f} GiB free"
        assert disk["free"] >= wanted, f"{free}; {wanted / 2**30:.1f} GiB are wanted (min_free_bytes)"


def test_log_files_of_the_app_are_rotated(checked: Checked) -> None:
    sizes = checked.facts["app_logs"]
    if not sizes:
        pytest.skip("the app writes no log files here")
    large = sorted(name for name, size in sizes.items() if size > LARGEST_LOG)
    assert not large, f"{', '.join(large)} under shared/logs are larger than {LARGEST_LOG // 2**20} MiB"


def test_timers_are_well(checked: Checked) -> None:
    units = checked.facts["units"]
    if not units:
        pytest.skip("the project has no timers on this host")
    failed = sorted(one["unit"] for one in units if one["active"] == "failed")
    assert not failed, f"{', '.join(failed)} failed: systemctl status {failed[0]}"


def test_backups_are_made_on_schedule(target: Target, checked: Checked) -> None:
    told = checked.facts.get("schedule")
    if not told:
        pytest.skip("no backup is scheduled")
    for what, one in told["timers"].items():
        last = one["last"]
        assert last is None or last["ok"], f"the last scheduled {what} failed: {last['problem']}"
    if not told["systemd"]:
        pytest.skip("PID 1 is not systemd: whatever calls docker-manage.sh there is not seen from here")
    lost = [what for what, one in told["timers"].items() if one.get("lost")]
    assert not lost, f"the timer of the {' and the '.join(lost)} rang last, and nothing came of it: make status"
    missing = [one["unit"] for one in told["timers"].values() if not one["installed"]]
    again = f"./docker-manage.sh {target.stack['env']} schedule"
    assert not missing, f"{', '.join(missing)} is missing or stopped; on the host: {again}"


def test_backups_are_copied_off_site(target: Target, checked: Checked) -> None:
    told = checked.facts.get("offsite")
    if not told:
        pytest.skip("no place off-site is configured")
    again = f"./docker-manage.sh {target.stack['env']} copy-offsite"
    assert not told["problem"], f"the last copy failed: {told['problem']}; on the host: {again}"
    assert not told["check_problem"], f"the last check of what lies there failed: {told['check_problem']}"
