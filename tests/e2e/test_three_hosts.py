"""Three empty hosts, each a whole prod stack, deployed together: all of them, or none. In the order of the file."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from support import checkout, site
from support.certificates import authorities, issue
from support.checkout import Checkout, changed
from support.engine_stack import docker
from support.host_locks import held
from support.kit import FIXTURE
from support.kit import ROOT as KIT
from testbed.hosts import Host, borrowed
from testbed.project import DOMAIN, inventory_variables

pytestmark = [pytest.mark.host, pytest.mark.slow]

ROOT = "/srv/guestbook"
SOURCE = FIXTURE.parent.relative_to(KIT)
# What a deploy must not touch: files with their times, containers with their start, images, volumes.
FILES = "sudo find /srv -path '*/shared/logs' -prune -o -printf '%p %T@ %m %u\\n' | sort;"
CONTAINERS = "sudo docker ps -aq | xargs -r sudo docker inspect --format '{{.Id}} {{.State.StartedAt}}' | sort;"
STATE = (
    f"{FILES}{CONTAINERS} sudo docker image ls --all --no-trunc --quiet | sort; sudo docker volume ls --quiet | sort"
)
SERIAL = f"readlink {ROOT}/shared/nginx/ssl/guestbook/current"
# Of a deploy that brings all three their first images, on two busy cores.
SECONDS = 600


@dataclass(frozen=True)
class Three:
    """The hosts, and the copy of the kit that deploys to them."""

    kit: Checkout
    hosts: tuple[Host, ...]

    def make(self, target: str, *words: str, check: bool = True) -> str:
        """Type make for all of them."""
        given = " ".join([f"make {target} ENV=prod INVENTORY=hosts.yml MANIFEST={SOURCE}/deploy.yml", *words])
        return self.kit.type(given, {}, check=check, limit=SECONDS)

    def result(self) -> dict[str, dict[str, object]]:
        """What the last playbook left for pipelines, by host."""
        told: dict[str, dict[str, object]] = json.loads((self.kit.path / "build/prod/result.json").read_text())["hosts"]
        return told

    def change(self, text: str) -> str:
        """Change what the app answers; gives the commit's short id."""
        path = self.kit.path / SOURCE / "site_settings.py"
        path.write_text(re.sub(r'f".*: \{cursor', f'f"{text} migrations: {{cursor', path.read_text()))
        return self.kit.commit(text)[:7]

    def releases(self) -> list[str]:
        """The release that each host serves, as its own link has it."""
        return [Path(host.run(f"readlink {ROOT}/current").stdout.strip()).name for host in self.hosts]

    def containers(self) -> list[str]:
        """Ids and starts of all containers, by host."""
        return [host.run(CONTAINERS).stdout for host in self.hosts]

    @contextmanager
    def different(self, host: Host, **variables: object) -> Iterator[None]:
        """Have the inventory say something else of one host for a while."""
        path = self.kit.path / "hosts.yml"
        sound = path.read_text()
        self.note(host, **variables)
        try:
            yield
        finally:
            path.write_text(sound)

    def note(self, host: Host, **variables: object) -> None:
        """Write something else of one host into the inventory."""
        path = self.kit.path / "hosts.yml"
        inventory = yaml.safe_load(path.read_text())
        inventory["app"]["hosts"][host.name].update(variables)
        path.write_text(yaml.safe_dump(inventory))

    def answers(self) -> list[str]:
        """What each host's site answers."""
        told = []
        for host in self.hosts:
            status, body = site.ask(host.ports[443], "/up", host=DOMAIN)
            assert status.status == 200, body
            told.append(body.decode().partition(":")[0])
        return told


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    """Three hosts, provisioned together."""
    kit = checkout.copy(tmp_path_factory.mktemp("three") / "checkout")
    # What provisioning sets up besides is shown by test_provision.py, and costs each host packages.
    quick = {"docker_host_source": "distribution", "host_setup_updates": False, "host_setup_time": False}
    variables = {**inventory_variables(FIXTURE), **quick}
    with borrowed(hosts=3, publish=(443,), variables=variables) as run:
        shutil.copyfile(run.inventory, kit.path / "hosts.yml")
        (kit.path / ".git/info/exclude").write_text(".venv\nhosts.yml\n")
        made = Three(kit, run.hosts)
        made.make("secrets")
        made.make("provision")
        yield made


def test_all_get_one_release_together(three: Three) -> None:
    three.make("deploy")
    assert len(set(three.releases())) == 1
    assert three.answers() == ["migrations"] * 3


def test_a_host_that_fails_its_checks_keeps_all_as_they_are(three: Three) -> None:
    first, broken, last = three.hosts
    releases = three.releases()
    three.change("second")
    broken.run("sudo systemctl stop docker.socket docker", timeout=120)
    before = [host.run(STATE).stdout for host in (first, last)]
    files = broken.run(FILES).stdout
    try:
        said = three.make("deploy", check=False)
        after = [host.run(STATE).stdout for host in (first, last)]
        assert broken.run(FILES).stdout == files
    finally:
        broken.run("sudo systemctl start docker", timeout=120)
    assert "The Docker engine is not running or not reachable" in said
    assert "Next: make provision ENV=prod" in said
    told = three.result()
    assert [told[host.name]["code"] for host in three.hosts] == ["ok", "engine", "ok"]
    assert not any(told[host.name]["changed"] for host in three.hosts)
    assert after == before
    assert three.releases() == releases


def test_a_host_that_cannot_be_delivered_to_keeps_all_at_their_release(three: Three) -> None:
    _, broken, _ = three.hosts
    releases, before = three.releases(), [host.run(CONTAINERS).stdout for host in three.hosts]
    broken.run(f"sudo rm -rf {ROOT}/incoming && sudo touch {ROOT}/incoming")
    try:
        three.make("deploy", check=False)
    finally:
        broken.run(f"sudo rm {ROOT}/incoming")
    told = three.result()
    assert told[broken.name]["task"] == "deliver | Bring the images that the host lacks"
    assert [told[host.name]["ok"] for host in three.hosts] == [True, False, True]
    assert three.releases() == releases
    assert [host.run(CONTAINERS).stdout for host in three.hosts] == before


def test_then_all_get_the_new_release(three: Three) -> None:
    releases = three.releases()
    three.make("deploy")
    assert len(set(three.releases())) == 1
    assert three.releases() != releases
    assert three.answers() == ["second migrations"] * 3


def test_a_release_that_fails_on_one_host_is_switched_to_on_none(three: Three) -> None:
    _, broken, _ = three.hosts
    releases, answers, before = three.releases(), three.answers(), three.containers()
    three.change("third")
    # Less memory than Python needs to start.
    limits = {"memory": "16m", "cpus": 1.0, "pids": 256}
    defaults = yaml.safe_load((KIT / "roles/release_bundle/defaults/main.yml").read_text())["release_bundle_limits"]
    with three.different(broken, release_bundle_limits={**defaults, "web": limits}):
        three.make("deploy", check=False)
    told = three.result()
    assert [told[host.name]["ok"] for host in three.hosts] == [True, False, True]
    # Release commands run within the bounds of web.
    assert told[broken.name]["code"] == "migrate"
    assert three.releases() == releases
    assert three.answers() == answers
    # What was prepared on the others is gone as soon as the deploy is.
    end = time.monotonic() + 60
    while three.containers() != before and time.monotonic() < end:
        time.sleep(0.5)
    assert three.containers() == before


def test_one_hosts_smoke_gate_leads_all_back(three: Three) -> None:
    _, broken, _ = three.hosts
    releases, answers = three.releases(), three.answers()
    # Nothing listens there.
    with three.different(broken, smoke_address="127.0.0.9"):
        said = three.make("deploy", check=False)
    assert "smoke gate failed" in said
    assert three.releases() == releases
    assert three.answers() == answers
    three.make("deploy")
    assert three.answers() == ["third migrations"] * 3


def test_one_host_at_a_time_each_judged_before_the_next(three: Three) -> None:
    three.change("fourth")
    said = three.make("deploy", "ARGS='-e release_serial=1'")
    # A gate for each, and one for all.
    assert len(re.findall(r"smoke gate: ", said)) == 4
    assert three.answers() == ["fourth migrations"] * 3
    assert len(set(three.releases())) == 1
    summary = [
        line.split() for line in said.splitlines() if re.match(rf"({'|'.join(h.name for h in three.hosts)}) +20", line)
    ]
    assert [(line[1], line[2]) for line in summary] == [(release, "serves") for release in three.releases()]


def test_a_batch_that_fails_leads_those_before_it_back_and_the_next_is_not_switched(three: Three) -> None:
    _, broken, last = three.hosts
    releases = three.releases()
    three.change("fifth")
    with three.different(broken, smoke_address="127.0.0.9"):
        said = three.make("deploy", "ARGS='-e release_serial=34%'", check=False)
    assert "smoke gate failed" in said
    assert three.releases() == releases
    assert three.answers() == ["fourth migrations"] * 3
    steps = {host.name: host.run(f"cat $(ls -t {ROOT}/records/*.journal | head -1)").stdout for host in three.hosts}
    # On the last one it was prepared alone, and the earlier release brought up again.
    assert [steps[host.name].count('"step": "switch", "event": "begin"') for host in three.hosts] == [1, 1, 0]
    assert "--- deploy: switch" not in last.run(f"sudo cat $(ls -t {ROOT}/records/*.log | head -1)").stdout
    three.make("deploy")
    assert three.answers() == ["fifth migrations"] * 3


def test_a_host_that_dies_in_the_switch_is_named_and_caught_up_by_the_next_run(three: Three) -> None:
    first, dying, last = three.hosts
    three.change("sixth")
    dying.run("touch /tmp/before")
    new = f"find {ROOT}/records -name '*.journal' -newer /tmp/before"
    begun = '\'"switch", "event": "begin"\''
    watch = f"until grep -qs {begun} $({new}) /dev/null; do sleep 0.01; done"
    with ThreadPoolExecutor(1) as aside:
        deploy = aside.submit(three.make, "deploy", check=False)
        docker("exec", dying.name, "timeout", "240", "sh", "-c", watch)
        docker("kill", dying.name)
        said = deploy.result()
    try:
        told = three.result()
        assert (told[dying.name]["ok"], told[dying.name]["code"]) == (False, "unreachable")
        assert dying.name in said
        # The others serve one release or the other, whole.
        for host in (first, last):
            status, body = site.ask(host.ports[443], "/up", host=DOMAIN)
            assert status.status == 200, body
    finally:
        docker("start", dying.name)
        dying.wait()
        three.note(dying, smoke_address=dying.address)
    three.make("deploy", "WAIT=60")
    assert three.answers() == ["sixth migrations"] * 3
    assert len(set(three.releases())) == 1
    assert [host.run(f"ls {ROOT}/records").stdout.count("pending") for host in three.hosts] == [0, 0, 0]


def test_one_that_waits_goes_on_from_what_it_finds(three: Three, tmp_path: Path) -> None:
    """Not from what its hosts told before: meanwhile another commit was brought there."""
    shutil.copytree(three.kit.path, tmp_path / "other", symlinks=True)
    other = replace(three, kit=Checkout(tmp_path / "other"))
    other.change("seventh")
    three.change("eighth")
    with ThreadPoolExecutor(1) as aside:
        first = aside.submit(other.make, "deploy")
        while not held(three.hosts[-1]):
            assert not first.done(), first.result()
        said = three.make("deploy", f"WAIT={SECONDS}")
        first.result()
    assert "Waiting up to" in said
    assert three.answers() == ["eighth migrations"] * 3


def test_a_second_run_changes_nothing_and_keeps_a_certificate_that_was_given(three: Three) -> None:
    first, *_ = three.hosts
    one = issue([DOMAIN], authorities())
    for name, text in (("chain", one.chain), ("key", one.key_pem), ("root", one.root)):
        first.run(f"umask 077; cat > /tmp/{name}.pem", stdin=text.encode())
    first.run(
        f"sudo {ROOT}/docker-manage.sh prod certificate --chain /tmp/chain.pem --key /tmp/key.pem --ca /tmp/root.pem"
    )

    said = three.make("deploy")

    assert changed(said) == {0}
    (told,) = [line for line in said.splitlines() if "tls:" in line]
    assert told.startswith(
        f"    [{first.name}] tls: certificate {one.serial}, which was given and not made by the kit,"
    )
    assert first.run(SERIAL).stdout.strip() == one.serial


def test_one_that_was_given_goes_only_when_that_is_asked_for(three: Three) -> None:
    first, *_ = three.hosts
    given = first.run(SERIAL).stdout

    said = three.make("deploy", "ARGS='-e tls_selfsigned_replaces=true'")

    assert re.search(r"WARNING.*goes out of use: tls_selfsigned_replaces is true", " ".join(said.split()))
    assert [three.result()[host.name]["changed"] for host in three.hosts] == [True, False, False]
    assert first.run(SERIAL).stdout != given
    assert given in first.run(f"sudo ls {ROOT}/shared/nginx/ssl/guestbook").stdout


def test_a_rollback_that_reached_one_host_only_is_completed_by_name(three: Three) -> None:
    first, second, _ = three.hosts
    for text in ("ninth", "tenth"):
        three.change(text)
        three.make("deploy")
    left = three.releases()[0]
    first.run(f"sudo {ROOT}/docker-manage.sh prod rollback", timeout=120)
    target = three.releases()[0]
    assert three.releases() == [target, left, left]
    said = three.make("rollback", check=False)
    assert "is not the same on all hosts" in said
    assert three.releases() == [target, left, left]
    # Judged on all; what the gate finds leads those back that were led there.
    with three.different(first, smoke_address="127.0.0.9"):
        said = three.make("rollback", f"RELEASE={target}", check=False)
    assert "smoke gate failed" in said
    assert three.releases() == [target, left, left]
    said = three.make("rollback", f"RELEASE={target}")
    assert f"release {target} serves already" in said
    assert three.releases() == [target] * 3
    assert three.answers() == ["ninth migrations"] * 3
    assert second.run(f"ls {ROOT}/records").stdout.count("pending") == 0
