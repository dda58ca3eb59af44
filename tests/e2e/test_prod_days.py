"""The prod stack on its host from day to day: other keys, pipelines, a neighbour, a reboot, and no secret said.

In the order of the file, on one host; the commit decides which Debian release it runs.
"""

from __future__ import annotations

import json
import re
import time

import pytest
import yaml
from support.canary import Watch, public_places, said
from support.checkout import changed
from support.kit import FIXTURE
from support.kit import ROOT as KIT
from support.prod_story import PROJECT, ROOT, Story

pytestmark = [pytest.mark.host, pytest.mark.slow]

# A host is back in 5 s; its engine then starts five containers at once.
REBOOT_SECONDS = 90


@pytest.fixture(scope="module")
def deployed(story: Story) -> Story:
    """The host with the stack on it."""
    story.make("secrets", "provision", "deploy")
    return story


def test_the_hosts_own_script_does_the_same_and_leaves_the_same_records(deployed: Story) -> None:
    page = deployed.kit.path / "app/templates/landing.html"
    left: list[dict[str, object]] = []
    for way in ("make", "script"):

        def do(verb: str, *settings: str, way: str = way) -> None:
            if way == "make":
                deployed.make(verb, *settings)
            else:
                # In words: restore latest --confirm prod.
                words = " ".join(one.replace("CONFIRM=", "--confirm ").removeprefix("BACKUP=") for one in settings)
                deployed.host.run(f"cd {ROOT} && sudo ./docker-manage.sh prod {verb} {words}", timeout=300)

        page.write_text(page.read_text() + f"<!-- {way} -->\n")
        deployed.kit.commit(f"change it for {way}")
        deployed.make("deploy")
        release = deployed.release()
        do("rollback")
        do("backup")
        do("restore", "BACKUP=latest", "CONFIRM=prod")
        serves = deployed.release()
        record = json.loads(deployed.host.run(f"cat {ROOT}/records/{release}.json").stdout)
        journal = deployed.host.run(f"cat {ROOT}/records/{serves}.journal").stdout.splitlines()
        # Nobody but root sees which there are.
        newest = f"cat $(ls -d {ROOT}/shared/backups/2* | tail -1)/manifest.json"
        backup = deployed.host.run(f"sudo sh -c '{newest}'").stdout
        left.append(
            {
                "record": sorted(record),
                "state": record["state"],
                "reason": record["reason"].replace(serves, "<id>").rpartition(" at ")[0],
                "steps": [(one["step"], one["event"]) for one in map(json.loads, journal)][-12:],
                "backup": sorted(json.loads(backup)),
                "level": json.loads(backup)["level"],
                "pending": deployed.host.run(f"ls {ROOT}/records").stdout.count("pending"),
            }
        )
    assert left[0] == left[1]
    assert left[0]["state"] == "rolled_back"
    assert left[0]["pending"] == 0
    deployed.make("deploy")


def test_a_rotated_key_keeps_the_earlier_one_and_the_database_its_container(deployed: Story) -> None:
    before, old = deployed.containers(), deployed.kit.secrets("prod")
    deployed.make("secrets", "ROTATE=SECRET_KEY")
    deployed.make("secrets", "ROTATE=DATABASE_PASSWORD")
    new = deployed.kit.secrets("prod")
    assert new["SECRET_KEY_FALLBACKS"] == old["SECRET_KEY"]
    assert new["DATABASE_PASSWORD"] != old["DATABASE_PASSWORD"]

    with Watch(deployed.host, {**new, "OLD": old["DATABASE_PASSWORD"]}) as watch:
        deployed.make("deploy")

    assert watch.told["found"] == {}
    assert deployed.ask("/health/ready")[0] == 200
    after = deployed.containers()
    assert (after["db"], after["nginx"]) == (before["db"], before["nginx"])


def test_the_jobs_of_pipelines_work_as_written(deployed: Story) -> None:
    text = (KIT / "docs/CI.md").read_text()
    github, gitlab = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))
    steps = [step["run"] for job in github["jobs"].values() for step in job["steps"] if "run" in step]
    scripts = [line for job in gitlab.values() if isinstance(job, dict) for line in job["script"]]
    assert set(steps) == set(scripts)
    typed = [command for command in dict.fromkeys(steps) if command not in ("make lint", "make test")]
    assert len(typed) == 4
    release = deployed.release()
    key = next(deployed.host.folder.glob("id_ed25519")).read_text()
    given = {"VAULT_PASSWORD": (deployed.kit.path / ".vault/prod").read_text().strip(), "SSH_KEY": key}
    for command in typed:
        deployed.type(command, given)
    assert deployed.release() == release
    assert json.loads((deployed.kit.path / "build/prod/result.json").read_text())["code"] == "ok"


GUEST = f"MANIFEST={FIXTURE.relative_to(KIT)}"


def test_two_projects_live_side_by_side(deployed: Story) -> None:
    before, inventory = deployed.containers(), deployed.guest("guest.yml")
    for target in ("secrets", "deploy"):
        deployed.make(target, GUEST, env="dev", inventory=inventory)
    told = deployed.host.run("curl -fsS -o /dev/null -w '%{http_code}' http://localhost:8000/up")
    assert told.stdout == "200"
    assert changed(deployed.make("deploy", GUEST, env="dev", inventory=inventory)) == {0}
    assert deployed.containers() == before
    assert deployed.ask("/health/ready")[0] == 200


def test_another_projects_deploy_root_is_refused(deployed: Story) -> None:
    inventory = deployed.guest("intruder.yml", deploy_root=ROOT)
    told = deployed.make("deploy", GUEST, env="dev", inventory=inventory, check=False)
    assert f"holds {PROJECT} (prod)" in told
    assert deployed.ask("/health/ready")[0] == 200


def test_everything_comes_back_after_a_reboot(deployed: Story) -> None:
    release, before = deployed.release(), deployed.containers()
    deployed.make("maintenance", "ON=1")
    deployed.host.reboot()
    end = time.monotonic() + REBOOT_SECONDS
    while time.monotonic() < end:
        try:
            if deployed.ask("/health/ready")[0] == 200:
                break
        except OSError:
            pass
        time.sleep(0.5)
    else:
        nginx = f"{PROJECT.replace('_', '-')}-prod-nginx-1"
        looked = "sudo docker ps --all; sudo docker inspect --format '{{.State.Error}} {{.HostConfig.RestartPolicy}}'"
        pytest.fail(deployed.host.run(f"{looked} {nginx}; sudo docker logs --tail 20 {nginx} 2>&1").stdout)
    assert deployed.release() == release
    assert deployed.containers() == before
    assert deployed.ask("/")[0] == 503
    deployed.make("maintenance", "ON=0")
    assert deployed.ask("/")[0] == 200
    assert changed(deployed.make("deploy")) == {0}


def test_no_secret_was_said_or_lies_open(deployed: Story) -> None:
    secrets = {**deployed.kit.secrets("prod"), **{f"dev {k}": v for k, v in deployed.kit.secrets("dev").items()}}
    printed = "\n".join(deployed.said)
    assert len(printed) > 100_000
    assert said(printed, secrets) == []
    mine = deployed.kit.secrets("prod")
    files, found = public_places(deployed.host, mine)
    assert files > 100
    assert found == []
    reports = [
        path for path in (deployed.kit.path / "build").rglob("*") if path.is_file() and path.stat().st_mode & 0o077
    ]
    assert [path for path in reports if any(value.encode() in path.read_bytes() for value in mine.values())] == []


def test_records_tell_what_was_deployed(deployed: Story) -> None:
    told = deployed.host.run(f"sudo cat {ROOT}/records/{deployed.release()}.json").stdout
    record = json.loads(told)
    assert (record["state"], record["env"], record["dirty"]) == ("good", "prod", False)
    assert re.fullmatch("[0-9a-f]{40}", record["sha"])
    assert re.fullmatch("sha256:[0-9a-f]{64}", record["image_id"])
    assert record["seconds"]
