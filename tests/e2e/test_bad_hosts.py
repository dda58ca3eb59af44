"""Hosts and inventories that will not do: `make deploy` says which, why and what to type; hosts stay as they were."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from support import checkout
from support.certificates import authorities, issue
from support.checkout import Checkout
from support.kit import FIXTURE
from support.kit import ROOT as KIT
from testbed.hosts import Host

pytestmark = [pytest.mark.host, pytest.mark.slow]

MANIFEST = FIXTURE.relative_to(KIT)
# A run takes 6 s on an idle machine; what hangs would take far longer than this.
SECONDS = 90
DOMAIN = "www.example.com"
# Where a program of another one's name lies; what a run may not touch is elsewhere.
SERVER = "/var/lib/kit-nginx"
# All that a run could have left on a host; a login of its own writes below none of them.
STATE = (
    "sudo find /etc /srv /home /opt /usr /var/lib/dpkg /var/tmp -xdev -printf '%p %s %m %u %T@\\n' | sort | sha256sum;"
    "sudo find /tmp -name 'kit-*' -o -name 'tmp.*'; sudo find /srv/full | sort"
)


@dataclass(frozen=True)
class Bed:
    """A host that could be deployed to, and the copy of the kit that tries."""

    kit: Checkout
    host: Host

    def entry(self, **changes: Any) -> dict[str, Any]:
        """The host's own entry in an inventory, with changes."""
        told = yaml.safe_load((self.host.folder / "inventory.yml").read_text())
        return {**told["app"]["hosts"][self.host.name], "app_domains": [DOMAIN], **changes}

    def alone(self, **changes: Any) -> dict[str, Any]:
        """The same, reached by a connection that no other entry has opened."""
        own = self.entry()
        return {**own, "ansible_ssh_common_args": f"{own['ansible_ssh_common_args']} -oControlPath=none", **changes}

    def deploy(self, hosts: Mapping[str, Any], *words: str, **environment: str) -> str:
        """Deploy to hosts, which must fail; gives what was said, without line ends: Ansible folds messages."""
        (self.kit.path / "hosts.yml").write_text(yaml.safe_dump({"app": {"hosts": dict(hosts)}}))
        command = shlex.join(["make", "deploy", "ENV=prod", "INVENTORY=hosts.yml", f"MANIFEST={MANIFEST}", *words])
        return " ".join(self.kit.type(command, environment, check=False, limit=SECONDS).split())

    def certificate(self, password: str) -> dict[str, str]:
        """Give inputs that name a certificate whose key is locked with the password in a file."""
        one = issue([DOMAIN], authorities())
        for name, text in (("chain", one.chain), ("key", one.key_pem), ("root", one.root)):
            (self.kit.path / f"{name}.pem").write_text(text)
        lock = [str(self.kit.path / ".venv/bin/ansible-vault"), "encrypt", "key.pem", "--vault-password-file", password]
        subprocess.run(lock, cwd=self.kit.path, check=True, capture_output=True, timeout=60)
        names = {"certificate": "chain", "key": "key", "ca": "root"}
        return {"tls_mode": "provided", **{f"tls_{name}_file": f"{file}.pem" for name, file in names.items()}}

    def codes(self) -> dict[str, str]:
        """The code of each host, as pipelines read it."""
        told = json.loads((self.kit.path / "build/prod/result.json").read_text())
        assert told["ok"] is False
        assert not any(host["changed"] for host in told["hosts"].values())
        return {name: host["code"] for name, host in told["hosts"].items()}


@pytest.fixture(scope="module")
def bed(engine_host: Host, tmp_path_factory: pytest.TempPathFactory) -> Bed:
    """The host, and secrets for it."""
    kit = checkout.copy(tmp_path_factory.mktemp("bad") / "checkout")
    (kit.path / ".git/info/exclude").write_text(".venv\nhosts.yml\n*.pem\npassword\n")
    made = Bed(kit, engine_host)
    made.kit.type(f"make secrets ENV=prod MANIFEST={MANIFEST}", {})
    return made


@pytest.fixture
def untouched(bed: Bed) -> Iterator[None]:
    """Whatever the test tries leaves the host as it was."""
    before = bed.host.run(STATE).stdout
    yield
    assert bed.host.run(STATE).stdout == before


@pytest.fixture
def full(bed: Bed) -> Iterator[str]:
    """A folder of the host whose disk, a small one, has not a byte left."""
    bed.host.run("sudo mkdir -p /srv/full && sudo mount -t tmpfs -o size=16m tmpfs /srv/full")
    bed.host.run("sudo dd if=/dev/zero of=/srv/full/filler bs=1M status=none", check=False)
    yield "/srv/full"
    bed.host.run("sudo umount /srv/full && sudo rmdir /srv/full")


@pytest.fixture
def late(bed: Bed) -> Iterator[str]:
    """A Python of the host whose clock is two hours slow: the host's own is this machine's."""
    patch = "import time; now = time.time; time.time = lambda: now() - 7200"
    bed.host.run(
        f"sudo mkdir /opt/late && echo '{patch}' | sudo tee /opt/late/sitecustomize.py >/dev/null;"
        "printf '#!/bin/sh\\nPYTHONPATH=/opt/late exec python3 -B \"$@\"\\n' | sudo tee /opt/late/python >/dev/null;"
        "sudo chmod 0755 /opt/late/python"
    )
    yield "/opt/late/python"
    bed.host.run("sudo rm -r /opt/late")


def test_each_host_says_what_is_wrong_with_it(bed: Bed, full: str, late: str) -> None:
    before = bed.host.run(STATE).stdout
    for name in ("stranger", "false"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(bed.kit.path / f"{name}.pem")]
        subprocess.run(command, check=True)
    known = bed.kit.path / "known.pem"
    known.write_text(f"[127.0.0.1]:{bed.host.port} {(bed.kit.path / 'false.pem.pub').read_text()}")
    swapped = f"-oUserKnownHostsFile={known} -oGlobalKnownHostsFile=none -oIdentitiesOnly=yes -oControlPath=none"
    begun = time.monotonic()

    said = bed.deploy(
        {
            "fine": bed.entry(deploy_root="/srv/0"),
            "down": bed.entry(deploy_root="/srv/1", ansible_port=1),
            "lost": bed.entry(deploy_root="/srv/2", ansible_host="no.invalid"),
            "locked": bed.alone(deploy_root="/srv/3", ansible_ssh_private_key_file=str(bed.kit.path / "stranger.pem")),
            "swapped": bed.entry(deploy_root="/srv/4", ansible_ssh_common_args=swapped),
            "humble": bed.entry(deploy_root="/srv/5", ansible_user="visitor"),
            "bare": bed.entry(deploy_root="/srv/6", preflight_python="python9"),
            "late": bed.entry(deploy_root="/srv/7", preflight_python=late),
            "full": bed.entry(deploy_root=full),
        }
    )

    assert time.monotonic() - begun < SECONDS
    assert bed.codes() == {
        "fine": "ok", "down": "unreachable", "lost": "unreachable", "locked": "unreachable", "swapped": "unreachable",
        "humble": "sudo", "bare": "python", "late": "clock", "full": "disk",
    }  # fmt: skip
    login = f"ssh -p {bed.host.port} deployer@127.0.0.1"
    for words in (
        "Host down (127.0.0.1) cannot be reached: it does not answer.",
        "Next: ssh -p 1 deployer@127.0.0.1",
        "Host lost (no.invalid) cannot be reached: its name is not known to any name server.",
        "Host locked (127.0.0.1) cannot be reached: it refuses the login",
        f"Next: {login} (does it let you in?)",
        "Host swapped (127.0.0.1) cannot be reached: its host key is not the known one",
        f"ssh-keygen -R '[127.0.0.1]:{bed.host.port}'",
        "The login user may not become root on humble",
        "There is no `python9` on bare. Next: apt-get install python3",
        "/srv/full has 0.0 GiB free; 2.0 GiB are needed (min_free_bytes). Next: docker system df",
        f"{DOMAIN} does not lead to fine",
    ):
        assert words in said
    assert re.search(r"The clock of late is 7[12]\d\d s apart from this machine's", said)
    assert bed.host.run(STATE).stdout == before


@pytest.mark.usefixtures("untouched")
def test_a_port_that_a_service_of_the_host_holds_is_named_with_it(bed: Bed) -> None:
    # Under nginx's name; the package would only cost time.
    serve = f"mkdir {SERVER} && cp /usr/bin/python3 {SERVER} && mv {SERVER}/python3 {SERVER}/nginx"
    serve += f" && systemd-run --quiet --unit=nginx {SERVER}/nginx -m http.server 80"
    bed.host.run(f"sudo sh -c '{serve}' && until (</dev/tcp/127.0.0.1/80) 2>/dev/null; do sleep 0.1; done")
    try:
        said = bed.deploy({"taken": bed.entry()})
    finally:
        bed.host.run(f"sudo systemctl stop nginx; sudo rm -r {SERVER}")
    assert bed.codes()["taken"] == "port"
    assert re.search(
        r"Port 80 on 0\.0\.0\.0, wanted by service nginx, is taken by process nginx \(pid \d+\)\. "
        r"Next: systemctl disable --now nginx \(on the host; or set release_bundle_http_port: \d+ in inventories/prod",
        said,
    )


@pytest.mark.usefixtures("untouched")
def test_a_stopped_engine_is_named_and_a_locked_key_is_unlocked_before(bed: Bed) -> None:
    given = bed.certificate(".vault/prod")
    bed.host.run("sudo systemctl stop docker.socket docker", timeout=60)
    try:
        said = bed.deploy({"stopped": bed.entry(**given)})
    finally:
        bed.host.run("sudo systemctl start docker", timeout=60)
    # The key was opened and fitted: it is judged first.
    assert bed.codes()["stopped"] == "engine"
    assert "The Docker engine is not running or not reachable" in said
    assert "Next: make provision ENV=prod" in said
    assert "PRIVATE KEY" not in said


@pytest.mark.usefixtures("untouched")
def test_a_key_that_another_password_locks_is_named(bed: Bed) -> None:
    (bed.kit.path / "password").write_text("another\n")
    said = bed.deploy({"web1": bed.entry(**bed.certificate("password"))})
    assert bed.codes()["web1"] == "vault"
    assert "key.pem is locked with ansible-vault, and the vault password that was given does not open it" in said
    assert "Next: export ANSIBLE_VAULT_PASSWORD_FILE=path" in said


@pytest.mark.usefixtures("untouched")
def test_a_vault_without_its_password_is_named(bed: Bed) -> None:
    vault = "inventories/prod/group_vars/all/vault.yml"
    (bed.kit.path / "password").write_text("wrong\n")
    wrong = bed.deploy({"web1": bed.entry()}, ANSIBLE_VAULT_PASSWORD_FILE="./password")  # noqa: S106 - a path
    assert bed.codes() == {"localhost": "vault"}
    assert f"{vault}: encrypted, and the vault password in ./password does not open it. No host was touched." in wrong
    assert "Next: put the right password into .vault/prod (0600), or: export ANSIBLE_VAULT_PASSWORD_FILE=path" in wrong

    absent = bed.deploy({"web1": bed.entry()}, ANSIBLE_VAULT_PASSWORD_FILE="nowhere")  # noqa: S106 - a path
    assert "The vault password of prod cannot be read: nowhere" in absent
    assert "Next: ls -l nowhere" in absent

    shutil.move(bed.kit.path / ".vault/prod", bed.kit.path / "password")
    try:
        missing = bed.deploy({"web1": bed.entry()})
    finally:
        shutil.move(bed.kit.path / "password", bed.kit.path / ".vault/prod")
    assert f"{vault} is encrypted, and its password is not here: no .vault/prod" in missing
    assert "Next: put the password into .vault/prod (0600)" in missing


@pytest.mark.usefixtures("untouched")
def test_one_host_under_two_names_is_refused(bed: Bed) -> None:
    own = bed.kit.path / "inventories/prod/hosts.yml"
    before = own.read_text()
    # The environment's own inventory names it too, by another name of the address and with the root spelled out.
    named = bed.entry(ansible_host="localhost", deploy_root="/srv/guestbook")
    own.write_text(yaml.safe_dump({"app": {"hosts": {"ours": named}}}))
    try:
        said = bed.deploy({"theirs": bed.entry()})
    finally:
        own.write_text(before)
    assert bed.codes() == {"localhost": "inventory"}
    assert f"ours and theirs are one host: 127.0.0.1 port {bed.host.port}, /srv/guestbook; take one of them out" in said
