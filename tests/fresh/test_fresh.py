"""What the README promises to somebody with a fresh Debian machine. In the order of the file, on one host a release.

FRESH_DISTROS=all or a code name chooses the releases; otherwise the commit decides whose turn it is.
"""

import json
import re
import time

import pytest
from testbed.hosts import CHECKOUT

from fresh.deployment import Deployed
from fresh.documented import commands

pytestmark = [pytest.mark.host, pytest.mark.slow, pytest.mark.timed]

FIRST_DEPLOY_SECONDS = 240
SECOND_DEPLOY_SECONDS = 10
# One command is at most a deploy of a stack that was destroyed before.
COMMAND_SECONDS = 180


def test_the_first_deploy_serves_in_time(deployed: Deployed) -> None:
    status = deployed.run("curl -sS -o /dev/null -w '%{http_code}' localhost:8000/health/ready")
    assert status == "200"
    assert deployed.seconds <= FIRST_DEPLOY_SECONDS


def test_the_second_deploy_changes_nothing(deployed: Deployed) -> None:
    seconds = []
    for _ in range(2):
        begun = time.monotonic()
        output = deployed.run("make deploy")
        seconds.append(time.monotonic() - begun)
        recap = re.findall(r"changed=(\d+)", output)
        assert recap, f"no recap in:\n{output}"
        assert set(recap) == {"0"}, output
        assert deployed.password not in output
    # The machine runs other tests at the same time, which may slow one of them down.
    deployed.record("second_deploy", min(seconds))
    assert min(seconds) <= SECOND_DEPLOY_SECONDS


def test_setting_up_again_costs_nothing(deployed: Deployed) -> None:
    begun = time.monotonic()
    deployed.run("make setup")
    seconds = time.monotonic() - begun
    deployed.record("second_setup", seconds)
    assert seconds < 1


def test_the_example_sends_its_mails(deployed: Deployed) -> None:
    mark = f"mark{time.time_ns()}"
    deployed.host.run("cat >acceptance.py", stdin=(CHECKOUT / "app/acceptance.py").read_bytes())
    given = {"base": "http://localhost:8000", "username": "admin", "password": deployed.password, "mark": mark}
    told = deployed.host.run("python3 acceptance.py", stdin=json.dumps(given).encode(), timeout=90).stdout
    result = json.loads(told)
    assert result["done"], result
    log = deployed.run("make logs")
    addressed = re.findall(rf"^.*\bTo: ({mark}-\w+@example\.com)\s*$", log, re.MULTILINE)
    assert sorted(addressed) == sorted(result["emails"])
    assert len(re.findall(rf"^.*\bSubject: {re.escape(result['subject'])}\s*$", log, re.MULTILINE)) == 3


def test_the_sources_stay_the_users(deployed: Deployed) -> None:
    assert deployed.run("find . -path ./build -prune -o ! -user deployer -print") == ""
    assert deployed.run("git status --porcelain") == ""


@pytest.mark.parametrize("page", ["QUICKSTART", "DOCKER_SETUP"])
def test_every_command_of_a_page_works_as_written(deployed: Deployed, page: str) -> None:
    for number, command in enumerate(commands(CHECKOUT / f"docs/{page}.md", marked_only=False), 1):
        begun = time.monotonic()
        deployed.run(command, timeout=COMMAND_SECONDS)
        deployed.record(f"{page.lower()}_{number:02d}", time.monotonic() - begun)
