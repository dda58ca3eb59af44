"""The complete prod stack on an empty host that is reached by SSH alone, as its users bring it there.

In the order of the file, on one host; the commit decides which Debian release it runs.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest
import yaml
from fresh.documented import commands
from kit_control import manifest
from support import checkout, site
from support.canary import Watch, public_places, said
from support.checkout import Checkout, changed
from support.kit import EXAMPLE, FIXTURE
from support.kit import ROOT as KIT
from testbed.fixtures import distros
from testbed.hosts import Host, borrowed
from testbed.project import DOMAIN, inventory_variables

pytestmark = [pytest.mark.host, pytest.mark.slow]

PROJECT = manifest.load(EXAMPLE).name
ROOT = f"/srv/{PROJECT}"
# A host is back in 5 s; its engine then starts five containers at once.
REBOOT_SECONDS = 90


@dataclass
class Story:
    """A host, the copy of the kit that deploys to it, and all that was printed so far."""

    kit: Checkout
    host: Host
    said: list[str] = field(default_factory=list)

    def type(self, command: str, variables: Mapping[str, str] | None = None, *, check: bool = True) -> str:
        """Type a command; Ansible says all that it ever says, and what was printed is kept."""
        loud = {"ANSIBLE_VERBOSITY": "4", "ANSIBLE_DIFF_ALWAYS": "1"}
        told = self.kit.type(command, {**loud, **(variables or {})}, check=check)
        self.said.append(told)
        return told

    def make(self, *words: str, env: str = "prod", inventory: str = "hosts.yml", check: bool = True) -> str:
        """Type make for the host."""
        return self.type(shlex.join(["make", *words, f"ENV={env}", f"INVENTORY={inventory}"]), check=check)

    def guest(self, name: str, **variables: object) -> str:
        """Write an inventory that brings the second project to the same host; returns its name."""
        inventory = yaml.safe_load((self.kit.path / "hosts.yml").read_text())
        given = {**inventory_variables(FIXTURE), "app_domains": ["localhost"], **variables}
        inventory["app"]["hosts"][self.host.name].update(given)
        (self.kit.path / name).write_text(yaml.safe_dump(inventory))
        return name

    def containers(self) -> dict[str, str]:
        """Id of each service's container."""
        told = self.host.run(
            "sudo docker ps --no-trunc --format '{{.Label \"com.docker.compose.service\"}} {{.ID}}' "
            f"--filter label=com.docker.compose.project={PROJECT.replace('_', '-')}-prod"
        ).stdout
        return dict(line.split() for line in told.splitlines())

    def ask(self, path: str) -> tuple[int, bytes]:
        """Ask the site from here, over TLS."""
        answer, body = site.ask(self.host.ports[443], path, host=DOMAIN)
        return answer.status, body

    def release(self) -> str:
        """The release that answers."""
        status, body = self.ask("/health/ready")
        assert status == 200, body
        return str(json.loads(body)["release"])


@pytest.fixture(scope="module", params=distros())
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """An empty host, watched for secrets from its first to its last moment."""
    kit = checkout.copy(tmp_path_factory.mktemp("kit") / "checkout")
    with borrowed(distro=request.param, publish=(80, 443), variables=inventory_variables(EXAMPLE)) as run:
        shutil.copyfile(run.inventory, kit.path / "hosts.yml")
        (kit.path / ".git/info/exclude").write_text(".venv\nhosts.yml\nguest.yml\nintruder.yml\n")
        yield Story(kit, run.hosts[0])


@pytest.fixture(scope="module")
def deployed(story: Story) -> Story:
    """The host after what docs/OPERATIONS.md tells its owner to type, line by line."""
    first, *others = commands(KIT / "docs/OPERATIONS.md", marked_only=False)
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

    after = deployed.containers()
    assert deployed.release() != release
    assert deployed.release().endswith(sha[:7])
    assert {name for name in after if after[name] == before[name]} == {"nginx", "db", "redis"}


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
