"""Copies of backups on another machine over real SSH: made, missed, made up for, and all that a lost host needs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from fresh.documented import commands
from kit_control.services import project_name
from support import checkout
from support.checkout import Checkout
from support.host_releases import write_project
from support.kit import ROOT as KIT
from testbed.fixtures import distros
from testbed.hosts import Host, borrowed
from testbed.image import USER
from testbed.project import inventory_variables

pytestmark = [pytest.mark.host, pytest.mark.slow]

NAME = "kept"
ROOT = f"/srv/{NAME}"
PROJECT = project_name(NAME, "prod")
CANARY = "canary-2mWq9restic"
FOLDER = f"/home/{USER}/copies"
PAGE, DISASTER = KIT / "docs/OPERATIONS.md", KIT / "docs/DISASTER.md"
NOTHING: Mapping[str, str] = {}
ROWS = "SELECT count(*), md5(string_agg(text, ',' ORDER BY id)) FROM kit_rows"


@dataclass
class Story:
    """The kit's copy, what it deploys to, and all that was printed."""

    kit: Checkout
    vault: Host
    host: Host
    said: list[str] = field(default_factory=list)

    def type(self, command: str, variables: Mapping[str, str] = NOTHING, *, check: bool = True) -> str:
        """Type a command; Ansible says all that it ever says."""
        said = {"ANSIBLE_VERBOSITY": "4", "ANSIBLE_DIFF_ALWAYS": "1"}
        told = self.kit.type(command, {**said, **variables}, check=check)
        self.said.append(told)
        return told

    def page(self, line: str, variables: Mapping[str, str] = NOTHING) -> str:
        """Type a command as a page has it, for our project."""
        return self.type(f"{line} MANIFEST={NAME}/deploy.yml" if line.startswith("make") else line, variables)

    def make(self, target: str, more: str = "", *, check: bool = True) -> str:
        """Type make for the host."""
        return self.type(f"make {target} ENV=prod INVENTORY=hosts.yml MANIFEST={NAME}/deploy.yml {more}", check=check)

    def root(self, script: str) -> str:
        """Run a script on the host as root."""
        return self.host.run("sudo bash -eu -s", stdin=script.encode(), timeout=120).stdout.strip()

    def ask(self, statement: str) -> str:
        """Ask the database, as its owner."""
        found = f"$(docker ps -q -f label=com.docker.compose.project={PROJECT} -f label=com.docker.compose.service=db)"
        asked = f'psql --no-psqlrc -At -U "$POSTGRES_USER" -d "$POSTGRES_DB" -c {shlex.quote(statement)}'
        return self.root(f"docker exec {found} sh -c {shlex.quote(asked)}")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A host that serves, and another machine that lets it in by SFTP."""
    scratch = tmp_path_factory.mktemp("offsite")
    kit = checkout.copy(scratch / "checkout")
    (kit.path / ".git/info/exclude").write_text(".venv\nhosts.yml\n")
    manifest = write_project(kit.path / NAME, NAME, "one")
    kit.commit("a project")
    with borrowed(distro=distros()[0]) as other:
        vault = other.hosts[0]
        key = scratch / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", CANARY, "-f", str(key)], check=True)
        public = key.with_suffix(".pub").read_text()
        vault.run("cat >> ~/.ssh/authorized_keys", stdin=public.encode())
        (known,) = (
            line for line in (vault.folder / "known_hosts").read_text().splitlines() if f":{vault.port} " in line
        )
        group = kit.path / "inventories/prod/group_vars/all"
        place = {
            "backup_offsite_repository": f"sftp:{USER}@{vault.address}:{FOLDER}",
            "backup_offsite_known_hosts": f"{vault.address} {known.partition(' ')[2]}",
            "backup_offsite_check_parts": 1,
        }
        (group / "place.yml").write_text(yaml.safe_dump(place))
        secrets = {"vault_backup_offsite": {"RESTIC_PASSWORD": CANARY}, "vault_backup_offsite_ssh_key": key.read_text()}
        (group / "offsite.yml").write_text(yaml.safe_dump(secrets))
        with _host(kit, manifest) as host:
            told = Story(kit, vault, host)
            told.make("secrets")
            # As the page has it.
            for line in commands(PAGE, marked_only=False, only="### Off-site"):
                told.page(line)
            yield told


@contextmanager
def _host(kit: Checkout, manifest: Path) -> Iterator[Host]:
    with borrowed(distro=distros()[0], publish=(80, 443), variables=inventory_variables(manifest)) as run:
        shutil.copyfile(run.inventory, kit.path / "hosts.yml")
        yield run.hosts[0]


def _copies(story: Story) -> set[str]:
    """Ids that lie off-site, by what the host says."""
    told = json.loads(story.root(f"{ROOT}/docker-manage.sh prod backups --json"))
    assert not told["offsite_problem"], told["offsite_problem"]
    here = {one["id"] for one in told["backups"] if "off-site" in one["where"]}
    return here | set(told["offsite_only"])


def test_a_backup_lies_off_site_when_the_command_ends(story: Story) -> None:
    story.ask("INSERT INTO kit_rows (text) SELECT md5(i::text) FROM generate_series(1, 5000) i")
    story.make("backup")
    assert "host and off-site" in story.make("backups")
    given = story.root(f"ls {ROOT}/shared/backups | tail -1")
    assert given in _copies(story)
    # Encrypted before it left.
    assert story.vault.run(f"grep -rlaE 'kit_rows|{CANARY}|PGDMP' {FOLDER}", check=False).stdout == ""
    assert story.vault.run(f"ls {FOLDER}/snapshots | wc -l").stdout.strip() == str(len(_copies(story)))
    assert "nothing to do" not in story.make("copy-offsite")


def test_a_release_does_not_wait_and_its_backup_follows(story: Story) -> None:
    before = _copies(story)
    write_project(story.kit.path / NAME, NAME, "two")
    story.kit.commit("another version")
    story.make("deploy")
    record = json.loads(story.root(f"cat $(readlink -f {ROOT}/current | sed 's|releases|records|').json"))
    end = time.monotonic() + 60
    while record["backup"]["id"] not in _copies(story):
        assert time.monotonic() < end, story.root(f"systemctl status {PROJECT}-backup-offsite.service || true")
        time.sleep(1)
    assert before < _copies(story)


def test_a_machine_that_is_away_is_told_and_made_up_for(story: Story) -> None:
    # The bed's own key stays, or nobody could let the host in again.
    key = story.vault.run(f"grep {CANARY} ~/.ssh/authorized_keys").stdout
    story.vault.run(f"sed -i /{CANARY}/d ~/.ssh/authorized_keys")
    try:
        said = story.make("backup", check=False)
        assert "is good and lies on this host, but could not be copied off-site" in said
        given = story.root(f"ls {ROOT}/shared/backups | tail -1")
        assert "FAILED" in next(line for line in story.make("status").splitlines() if "off-site" in line)
        assert "the last copy failed" in story.make("smoke", check=False)
        # No part of a release's gate.
        write_project(story.kit.path / NAME, NAME, "three")
        story.kit.commit("a third version")
        story.make("deploy")
    finally:
        story.vault.run("cat >> ~/.ssh/authorized_keys", stdin=key.encode())
    story.make("copy-offsite")
    assert given in _copies(story)
    assert "FAILED" not in next(line for line in story.make("status").splitlines() if "off-site" in line)


def test_another_host_key_is_refused(story: Story) -> None:
    """What answers at that address with another key gets nothing."""
    secrets = f"$(readlink -f {ROOT}/current)/secrets/offsite.json"
    kept = story.root(f"cat {secrets}")
    told = json.loads(kept)
    # A key that is none of that host's.
    key = story.vault.run("tail -1 ~/.ssh/authorized_keys").stdout.split()[1]
    told["known_hosts"] = f"{story.vault.address} ssh-ed25519 {key}"
    story.root(f"cat > {secrets} <<'END'\n{json.dumps(told)}\nEND")
    try:
        # Where it were taken, the script would fail.
        said = story.root(f"if {ROOT}/docker-manage.sh prod copy-offsite 2>&1; then exit 9; fi")
        assert "Host key verification failed" in said
    finally:
        story.root(f"cat > {secrets} <<'END'\n{kept}\nEND")


def test_the_drill_reads_what_lies_there(story: Story) -> None:
    story.root(f"systemctl start {PROJECT}-backup-drill.service")
    line = next(line for line in story.make("status").splitlines() if "off-site" in line)
    assert "read back" in line
    assert "good" in line


def test_no_secret_is_told_or_lies_open(story: Story) -> None:
    kept = (story.kit.path / "inventories/prod/group_vars/all/offsite.yml").read_text()
    assert kept.startswith("$ANSIBLE_VAULT")
    assert CANARY not in "".join(story.said)
    # Where it lies: in the releases' own secrets alone, for root.
    found = story.root(f"grep -rlsa {CANARY} {ROOT} /etc /run /dev/shm /tmp /var/log /home || true").splitlines()
    assert found
    for path in found:
        assert path.startswith(f"{ROOT}/releases/")
        assert path.endswith("/secrets/offsite.json")
        assert story.root(f"stat --format '%a %U' {path}") in ("400 root", "600 root")
    journal = story.root("journalctl --no-pager")
    assert f"{PROJECT}-backup" in journal
    assert CANARY not in journal


def test_a_lost_host_comes_back_from_off_site_alone(story: Story) -> None:
    wanted = story.ask(ROWS)
    story.make("backup")
    given = story.root(f"ls {ROOT}/shared/backups | tail -1")
    subprocess.run(["docker", "rm", "--force", "--volumes", story.host.name], capture_output=True, check=True)
    # What somebody has by then is newer than what the host had.
    write_project(story.kit.path / NAME, NAME, "four")
    story.kit.commit("a fourth version")
    with _host(story.kit, story.kit.path / NAME / "deploy.yml") as host:
        other = Story(story.kit, story.vault, host)
        begun = time.monotonic()
        # As the page has it, and by nothing but what it says.
        lines = commands(DISASTER, marked_only=False, only="## From off-site alone")
        asked = next(number for number, line in enumerate(lines) if line.startswith("make backups")) + 1
        for line in lines[:asked]:
            listed = other.page(line)
        chosen = re.findall(r"(\d{8}T\d{6}Z-\S+), off-site only", listed)[0]
        assert chosen == given
        commit = chosen.rpartition("-")[2]
        for line in lines[asked:]:
            other.page(line, {"BACKUP": chosen, "COMMIT": commit})
        print(f"from an empty host to a site that serves: {time.monotonic() - begun:.0f} s")
        assert other.ask(ROWS) == wanted
        assert other.root(f"readlink -f {ROOT}/current").endswith(commit)
        assert CANARY not in "".join(other.said)
