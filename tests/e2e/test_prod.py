"""The complete prod stack on an empty host that is reached by SSH alone, as its users bring it there.

In the order of the file, on one host; the commit decides which Debian release it runs.
"""

from __future__ import annotations

import json
import subprocess
import threading

import pytest
from fresh.documented import commands
from support.canary import Watch
from support.checkout import changed
from support.kit import ROOT as KIT
from support.prod_story import PROJECT, ROOT, Story

pytestmark = [pytest.mark.host, pytest.mark.slow]

# Of a deploy of changed code to one host.
MOST_TASKS = 10


@pytest.fixture(scope="module")
def deployed(story: Story) -> Story:
    """The host after what docs/OPERATIONS.md tells its owner to type, line by line."""
    # That section wants another machine: test_offsite.py types it.
    first, *others = commands(KIT / "docs/OPERATIONS.md", marked_only=False, without="### Off-site")
    assert first == "make secrets ENV=prod INVENTORY=hosts.yml"
    story.type(first)
    secrets = story.kit.secrets("prod")
    assert len(secrets) >= 4
    for command in others:
        with Watch(story.host, secrets) as watch:
            story.type(command)
        assert watch.told["looks"] > 3
        assert watch.told["found"] == {}, command
    return story


def test_a_second_run_changes_nothing(deployed: Story) -> None:
    before = deployed.containers()
    assert sorted(before) == ["db", "nginx", "redis", "web", "worker"]
    for target in ("provision", "deploy"):
        assert changed(deployed.make(target)) == {0}, target
    assert deployed.containers() == before


def test_backups_are_made_by_the_clock(deployed: Story) -> None:
    unit = f"{PROJECT.replace('_', '-')}-prod-backup"
    for name in (unit, f"{unit}-drill"):
        assert deployed.host.run(f"systemctl is-active {name}.timer").stdout.strip() == "active"
        assert deployed.host.run(f"systemctl is-enabled {name}.timer").stdout.strip() == "enabled"
        # What the timer starts when it rings.
        deployed.host.run(f"sudo systemctl start {name}.service", timeout=120)
    told = json.loads(deployed.host.run(f"cd {ROOT} && sudo ./docker-manage.sh prod status --json").stdout)
    timers = told["schedule"]["timers"]
    assert {what: (one["installed"], one["last"]["ok"]) for what, one in timers.items()} == {
        "backup": (True, True), "drill": (True, True),
    }  # fmt: skip
    assert timers["backup"]["last"]["backup"] == told["restored"]["id"] == told["backup"]["id"]
    deployed.make("smoke")
    try:
        deployed.host.run(f"sudo systemctl disable --now {unit}.timer")
        assert f"{unit}.timer is MISSING" in deployed.make("status")
        assert f"{unit}.timer is missing or stopped" in deployed.make("smoke", check=False)
    finally:
        deployed.host.run(f"cd {ROOT} && sudo ./docker-manage.sh prod schedule")
    assert "next" in deployed.make("status")
    deployed.make("smoke")


def test_a_change_of_code_makes_the_apps_containers_anew_and_no_other(deployed: Story) -> None:
    before, release = deployed.containers(), deployed.release()
    page = deployed.kit.path / "app/templates/landing.html"
    page.write_text(page.read_text() + "<!-- a new line -->\n")
    sha = deployed.kit.commit("change a page")

    deployed.make("deploy")

    # Each of Ansible's tasks is a tenth of a second for whoever waits.
    told = json.loads((deployed.kit.path / "build/prod/result.json").read_text())
    assert len(told["steps"]) <= MOST_TASKS, told["steps"]
    after = deployed.containers()
    assert deployed.release() != release
    assert deployed.release().endswith(sha[:7])
    assert {name for name in after if after[name] == before[name]} == {"nginx", "db", "redis"}


def test_who_comes_second_is_refused_or_waits(deployed: Story) -> None:
    release = deployed.release()
    page = deployed.kit.path / "app/templates/landing.html"
    page.write_text(page.read_text() + "<!-- another line -->\n")
    deployed.kit.commit("change it again")
    # Somebody's command, until he ends it.
    hold = "sudo flock /run/kit-*.lock sh -c 'echo held; cat'"
    with subprocess.Popen([*deployed.host.ssh_words, hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        told = deployed.make("deploy", check=False)
        assert "Another command is at work on this host since" in told
        assert json.loads((deployed.kit.path / "build/prod/result.json").read_text())["code"] == "locked"
        assert deployed.release() == release
        end = threading.Timer(8, other.stdin.close)
        end.start()
        deployed.make("deploy", "WAIT=120")
        end.join()
    assert deployed.release() != release


def test_a_rollback_is_one_command_and_the_next_deploy_another_release(deployed: Story) -> None:
    before, release = deployed.containers(), deployed.release()
    deployed.make("rollback")
    earlier = deployed.release()
    assert earlier != release
    after = deployed.containers()
    assert {name for name in after if after[name] == before[name]} == {"nginx", "db", "redis"}
    rows = {line.split()[0]: line for line in deployed.make("releases").replace("*", " ").splitlines() if "Z-" in line}
    assert "rolled_back" in rows[release]
    assert "good" in rows[earlier]

    deployed.make("deploy")
    assert deployed.release() not in (release, earlier)
    assert deployed.containers()["nginx"] == before["nginx"]


def test_what_the_smoke_gate_finds_leads_back_to_the_release_before(deployed: Story) -> None:
    before, release = deployed.containers(), deployed.release()
    urls = deployed.kit.path / "app/config/urls.py"
    sound = urls.read_text()
    # The readiness path answers, the manifest's smoke requests do not.
    urls.write_text(sound + '\nurlpatterns = [one for one in urlpatterns if "health" in str(one)]\n')
    deployed.kit.commit("lose the pages")
    told = deployed.make("deploy", check=False)
    urls.write_text(sound)
    deployed.kit.commit("find them again")
    assert "smoke gate failed" in told
    assert f"Release {release} serves again" in told
    assert deployed.release() == release
    assert deployed.containers()["nginx"] == before["nginx"]
    # The bundle is the same again, and serves: nothing is to be done but to bring the same up once more.
    deployed.make("deploy")
    assert deployed.ask("/")[0] == 200


def test_a_changed_working_tree_is_refused_before_the_host_is_touched(deployed: Story) -> None:
    stray = deployed.kit.path / "app/stray.py"
    stray.write_text("x = 1\n")
    told = deployed.make("deploy", check=False)
    stray.unlink()
    assert "has changes that no commit holds" in told
    assert "DIRTY=1" in told
