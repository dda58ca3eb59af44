"""Plan, status and the daily commands on a host over SSH, as make calls them. In the order of the file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.engine import app_image, base_image, bring
from support.kit import FIXTURE, ROOT, Run, playbook
from testbed.hosts import Host, borrowed
from testbed.hosts import Run as Hosts

pytestmark = [pytest.mark.host, pytest.mark.engine, pytest.mark.slow]

CANARY = "planted-canary-" + "0815" * 16
SECRETS = {"KEY": "first-key-" + "abcdefghij" * 6, "PGPASSWORD": "first-password-1234"}
# A deploy on a machine that runs other tests too.
SECONDS = 300


@dataclass(frozen=True)
class Bed:
    """A host with an engine and the images, and a project to deploy there as dev."""

    hosts: Hosts
    scratch: Path

    @property
    def host(self) -> Host:
        """The one host."""
        return self.hosts.hosts[0]

    @property
    def source(self) -> Path:
        """The project's copy."""
        return self.scratch / "source"

    @property
    def build(self) -> Path:
        """Where the results lie."""
        return self.scratch / "build/dev"

    def play(self, name: str, *arguments: str, inventory: str = "", **changes: Any) -> Run:
        """Run a playbook against the host."""
        given = {
            "project_manifest": str(self.source / "deploy.yml"), "app_image_delivery": "build",
            "base_images_source": "packages", "vault_secrets": SECRETS, **changes,
        }  # fmt: skip
        hosts = ("-i", inventory or str(self.hosts.inventory))
        return playbook(name, "dev", given, *hosts, *arguments, scratch=self.scratch, limit=SECONDS)

    def make(
        self, target: str, *settings: str, inventory: str = "", stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Call make as a user does."""
        words = ["make", target, "ENV=dev", f"INVENTORY={inventory or self.hosts.inventory}", *settings]
        return subprocess.run(
            [*words, f"MANIFEST={self.source / 'deploy.yml'}"],
            cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=SECONDS, check=False,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        )  # fmt: skip

    def result(self) -> dict[str, Any]:
        """What the last playbook left for pipelines."""
        told: dict[str, Any] = json.loads((self.build / "result.json").read_text())
        return told

    def planned(self) -> dict[str, Any]:
        """The host's part of plan.json."""
        told: dict[str, Any] = json.loads((self.build / "plan.json").read_text())["hosts"][self.host.name]
        return told

    def traces(self) -> str:
        """What is on the host: files with their times, without logs; folders, containers, images, volumes."""
        # A folder's time tells of a file that came and went.
        script = (
            "sudo find /srv /tmp /var/tmp -path '*/shared/logs' -prune -o -name 'runc-process*' -prune"
            " -o -type f -printf '%p %T@ %m %u\\n'"
            " -o -printf '%p %m %u\\n' | grep -v ansible | sort"
            "; sudo docker ps -aq | sort; sudo docker image ls -q; sudo docker volume ls -q"
        )
        return self.host.run(script).stdout

    def inventory_with(self, **more: dict[str, Any]) -> str:
        """The host's inventory with further hosts after it."""
        told = yaml.safe_load(Path(self.hosts.inventory).read_text())
        told["app"]["hosts"].update(more)
        path = self.scratch / "several.yml"
        path.write_text(yaml.safe_dump(told, sort_keys=False))
        return str(path)


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """A host that has an engine and the images, and nothing of the project."""
    with borrowed() as hosts:
        made = Bed(hosts, tmp_path_factory.mktemp("on-host"))
        shutil.copytree(FIXTURE.parent, made.source, ignore=shutil.ignore_patterns("__pycache__"))
        run = made.play("prepare", base_images_wanted=[])
        assert run.code == 0, run.output
        # Building them there again would take minutes, and is another test's.
        images = [base_image("python"), base_image("postgres"), app_image(made.source / "deploy.yml", "dev")]
        bring(made.host.ssh_words, images)
        yield made


def test_before_the_first_deploy(bed: Bed) -> None:
    told = bed.make("status")
    assert told.returncode != 0
    assert f"{bed.host.name} holds no release" in told.stdout
    assert "make deploy ENV=dev" in told.stdout
    before = bed.traces()

    run = bed.play("plan")

    assert run.code == 0, run.output
    last = run.output.strip().splitlines()[-1]
    assert last.startswith("a deploy to dev would be the first one here, apply ")
    assert last.endswith("and create db, web")
    assert "auth.0001_initial" in bed.planned()["migrations"]["pending"]
    assert bed.traces() == before


def test_a_failed_deploy_leaves_its_cause(bed: Bed) -> None:
    run = bed.play("deploy", min_free_bytes=2**60)

    assert run.code != 0
    told = bed.result()
    assert (told["ok"], told["code"], told["playbook"]) == (False, "disk", "deploy")
    assert "GiB are needed" in told["hosts"][bed.host.name]["message"]


def test_a_deploy_leaves_its_result(bed: Bed) -> None:
    run = bed.play("deploy")

    assert run.code == 0, run.output
    told = bed.result()
    assert (told["ok"], told["code"], told["changed"]) == (True, "ok", True)
    release = told["hosts"][bed.host.name]["release"]
    assert f"release {release}" in run.output


def test_plan_of_the_same_finds_nothing_to_do(bed: Bed) -> None:
    before = bed.traces()

    run = bed.play("plan")

    assert run.code == 0, run.output
    assert run.output.strip().splitlines()[-1].startswith("nothing to do: release ")
    assert bed.planned()["changes"] is False
    assert bed.traces() == before


def test_plan_of_a_change_shows_it_without_secrets_and_leaves_nothing(bed: Bed) -> None:
    package = bed.source / "notes/migrations"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    text = "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n    operations = []\n"
    (package / "0001_initial.py").write_text(text)
    settings = bed.source / "site_settings.py"
    settings.write_text(settings.read_text().replace("INSTALLED_APPS = [", 'INSTALLED_APPS = ["notes", '))
    before = bed.traces()

    run = bed.play(
        "plan", "-vvvv", "--diff", vault_secrets={**SECRETS, "KEY": CANARY}, app_domains=["localhost", "new.test"]
    )

    assert run.code == 0, run.output
    plan = bed.planned()
    assert plan["migrations"] == {"pending": ["notes.0001_initial"], "unknown": ""}
    assert plan["containers"] == {"db": "keep", "web": "recreate"}
    (variables,) = (one["lines"] for one in plan["files"] if one["path"] == ".env.dev")
    assert variables == [
        " KEY: changed (secret)", '-HOSTS="localhost,127.0.0.1"', '+HOSTS="localhost,new.test"'
    ]  # fmt: skip
    last = run.output.strip().splitlines()[-1]
    assert (
        last == "a deploy to dev would change .env.dev, bring 4 other source files, apply 1 migration and recreate web"
    )
    everything = run.output + (bed.build / "plan.json").read_text() + (bed.build / "result.json").read_text()
    for secret in (CANARY, *SECRETS.values()):
        assert secret not in everything
    assert bed.traces() == before


def test_status_shows_each_host_and_names_the_one_that_is_away(bed: Bed) -> None:
    alone = bed.make("status")
    assert alone.returncode == 0, alone.stderr
    assert "guestbook (dev): ready, http://" in alone.stdout
    assert "MiB" in alone.stdout
    several = bed.inventory_with(
        away={"ansible_host": "127.0.0.1", "ansible_port": 1}, last={"ansible_host": "no.invalid"}
    )

    told = bed.make("status", inventory=several)

    assert told.returncode != 0
    blocks = [line.split()[0] for line in told.stdout.splitlines() if " at " in line and not line.startswith(" ")]
    assert blocks == [bed.host.name, "away", "last"]
    assert "guestbook (dev): ready" in told.stdout
    assert "Host away (127.0.0.1) cannot be reached: it does not answer" in told.stdout
    assert "Host last (no.invalid) cannot be reached: its name is not known" in told.stdout

    as_json = json.loads(bed.make("status", "ARGS=--json", inventory=several).stdout)
    assert as_json["ok"] is False
    assert as_json["hosts"][bed.host.name]["ready"] is True
    assert as_json["hosts"]["away"]["code"] == "unreachable"


def test_daily_commands(bed: Bed) -> None:
    assert "guestbook-dev-web-1" in bed.make("ps").stdout
    assert "gunicorn" in bed.make("logs", "ARGS=web").stdout
    # make tells the exit code of the command inside the container.
    assert "Error 7" in bed.make("manage", "ARGS=shell -v 0", stdin="raise SystemExit(7)\n").stderr
    assert bed.make("shell", "ARGS=db", stdin="psql -U guestbook -Atc 'select 6*7'\n").stdout.strip() == "42"
    assert "Nothing to migrate." in bed.make("migrate").stdout
    wrong = bed.make("logs", "ARGS=webb")
    assert "there are: db, web" in wrong.stderr


def test_of_several_hosts_one_is_named(bed: Bed) -> None:
    several = bed.inventory_with(away={"ansible_host": "127.0.0.1", "ansible_port": 1})

    told = bed.make("ps", inventory=several)
    assert told.returncode != 0
    assert f"2 hosts: {bed.host.name}, away" in told.stderr
    assert "make ps ENV=dev HOST=" in told.stderr
    assert "guestbook-dev-web-1" in bed.make("ps", f"HOST={bed.host.name}", inventory=several).stdout
    assert "cannot be reached" in bed.make("ps", "HOST=away", inventory=several).stderr


def test_destroy_wants_the_name(bed: Bed) -> None:
    refused = bed.make("destroy")
    assert refused.returncode != 0
    assert "CONFIRM=dev" in refused.stderr
    assert bed.make("down").returncode == 0
    assert bed.host.run("sudo docker volume ls -q --filter name=postgres_data").stdout != ""

    assert bed.make("destroy", "CONFIRM=dev").returncode == 0

    assert bed.host.run("sudo docker ps -aq; sudo docker volume ls -q").stdout == ""
