"""A bare host is provisioned over SSH: what it has then, what it lets in, and the hosts that will not do.

In the order of the file: the host is bare at first, and provisioned half-way.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.kit import ROOT, Run, playbook
from testbed.engine import docker
from testbed.hosts import Host, borrowed
from testbed.image import ensure_image

pytestmark = [pytest.mark.host, pytest.mark.slow]

ROLE = ROOT / "roles/host_setup"
USER = "kitdeploy"
PLAIN = {**os.environ, "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"}
# An engine is installed from Debian's mirror; a run without that takes 5 s on an idle machine.
INSTALL_SECONDS, RUN_SECONDS = 600, 120
# A port that is dropped is silent this long; one that answers does so in milliseconds.
SILENT_SECONDS = 2
# What a person takes to type an answer.
TYPING_SECONDS = 0.5
# All that a run could have left on a host; a login of its own writes below none of them.
RENTED = "PermitRootLogin prohibit-password\nPasswordAuthentication yes"
STATE = "sudo find /etc /srv /home /opt /usr /var/lib/dpkg -xdev -printf '%p %s %m %u %T@\\n' | sort | sha256sum"
# Where the kernel's settings of the host's own network can be written: /proc/sys itself is read-only there.
IPV6 = """
set -e
mkdir -p /run/kit-proc && mount -t proc proc /run/kit-proc
trap 'ip netns delete outside; umount /run/kit-proc' EXIT
on() { echo 0 >/run/kit-proc/sys/net/ipv6/conf/$1/disable_ipv6; }
on all; on default
ip netns add outside
ip link add inner type veth peer name outer netns outside
on inner
ip netns exec outside sh -c 'echo 0 >/run/kit-proc/sys/net/ipv6/conf/outer/disable_ipv6'
ip address add fd00::1/64 dev inner nodad && ip link set inner up
ip -n outside address add fd00::2/64 dev outer nodad && ip -n outside link set outer up
for port in 22 8080; do
  ip netns exec outside timeout 2 bash -c "</dev/tcp/fd00::1/$port" 2>/dev/null && echo $port open || echo $port closed
done
"""


@pytest.fixture(scope="module")
def bare() -> Iterator[Host]:
    """A host as rented: root may log in, by key, and passwords count; no Python, and a user who may not use sudo."""
    with borrowed() as run:
        (host,) = run.hosts
        host.run(
            "sudo apt-get purge --quiet=2 --yes 'python3*' 'libpython3*' >/dev/null 2>&1; ! command -v python3;"
            "sudo useradd --create-home --shell /bin/bash visitor;"
            "sudo cp -r ~/.ssh /home/visitor/ && sudo chown -R visitor: /home/visitor/.ssh;"
            "sudo install -D -m 0600 ~/.ssh/authorized_keys ~root/.ssh/authorized_keys;"
            f"echo '{RENTED}' | sudo tee /etc/ssh/sshd_config.d/10-rented.conf >/dev/null;"
            "sudo systemctl reload ssh"
        )
        yield host


def entry(host: Host, **changes: Any) -> dict[str, Any]:
    """The host's own entry in an inventory, with changes."""
    own = yaml.safe_load((host.folder / "inventory.yml").read_text())["app"]["hosts"][host.name]
    return {**own, "host_setup_user_name": USER, "docker_host_source": "distribution", **changes}


def options(known: Path) -> str:
    """SSH's options with another file of known hosts."""
    return f"-oUserKnownHostsFile={known} -oGlobalKnownHostsFile=none -oIdentitiesOnly=yes"


def provision(scratch: Path, hosts: dict[str, dict[str, Any]], *arguments: str, limit: float, **extra: Any) -> Run:
    """Run playbooks/provision.yml for prod."""
    scratch.mkdir(exist_ok=True)
    inventory = scratch / "hosts.yml"
    inventory.write_text(yaml.safe_dump({"app": {"hosts": hosts}}))
    return playbook("provision", "prod", extra, "-i", str(inventory), *arguments, scratch=scratch, limit=limit)


def typed(inventory: Path, *settings: str) -> list[str]:
    """The words that a person types."""
    return ["make", "provision", "ENV=prod", f"INVENTORY={inventory}", "DIRTY=1", *settings]


def at_terminal(words: Sequence[str], question: bytes, answer: bytes) -> Run:
    """Run a command at a terminal of its own, and answer its question."""
    spawn = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    terminal = [sys.executable, "-c", spawn, *words]
    with subprocess.Popen(terminal, cwd=ROOT, env=PLAIN, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdin
        assert run.stdout
        ending = threading.Timer(RUN_SECONDS, run.kill)
        ending.start()
        said = b""
        while True:
            if not select.select([run.stdout], [], [], TYPING_SECONDS)[0]:
                # Again after a while: what is typed before the question is ready for it counts for nothing.
                if question in said:
                    run.stdin.write(answer + b"\r")
                    run.stdin.flush()
            elif more := os.read(run.stdout.fileno(), 4096):
                said += more
            else:
                break
        ending.cancel()
    return Run(run.returncode, said.decode())


def key_pair(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return path.with_name(f"{path.name}.pub").read_text().strip()


def fingerprint(host: Host) -> str:
    key = host.folder / f"{host.name}.hostkey.pub"
    return subprocess.run(["ssh-keygen", "-lf", str(key)], check=True, capture_output=True, text=True).stdout.split()[1]


def flat(run: Run) -> str:
    """What a run that must fail said, without line ends: Ansible folds and indents messages."""
    assert run.code != 0, run.output
    return re.sub(r"\s+", " ", run.output)


def changed(run: Run, host: str) -> int:
    found = re.search(rf"^{host} .*changed=(\d+) .*unreachable=0 .*failed=0", run.output, re.M)
    assert run.code == 0, run.output
    assert found, run.output
    return int(found[1])


def test_hosts_that_do_not_show_who_they_are_are_not_logged_in_to(bare: Host, tmp_path: Path) -> None:
    before = bare.run(STATE).stdout
    known = tmp_path / "false"
    known.write_text(f"[127.0.0.1]:{bare.port} {key_pair(tmp_path / 'other')}\n")
    hosts = {
        "down": entry(bare, ansible_port=1, deploy_root="/srv/down"),
        "another": entry(bare, ansible_ssh_common_args=options(known), deploy_root="/srv/another"),
        "new": entry(bare, ansible_ssh_common_args=options(tmp_path / "none"), deploy_root="/srv/new"),
    }
    said = flat(provision(tmp_path / "run", hosts, limit=30))
    assert "Host down (127.0.0.1 port 1) cannot be reached: connection refused" in said
    assert "Next: ssh -p 1 127.0.0.1" in said
    assert f"Host another (127.0.0.1 port {bare.port}) shows another host key than the known one" in said
    assert f"ssh-keygen -R '[127.0.0.1]:{bare.port}' -f {known}" in said
    assert known.read_text().count("\n") == 1

    new = flat(provision(tmp_path / "run", {"new": hosts["new"]}, limit=30))
    assert f"new (127.0.0.1 port {bare.port}) shows a host key that is not known here" in new
    assert f"CONFIRM_HOST_KEYS={fingerprint(bare)} make provision ENV=prod" in new
    assert not (tmp_path / "none").exists()
    assert bare.run(STATE).stdout == before


def test_a_new_host_key_is_shown_at_a_terminal_and_kept_when_confirmed(bare: Host, tmp_path: Path) -> None:
    known, inventory = tmp_path / "known", tmp_path / "hosts.yml"
    inventory.write_text(
        yaml.safe_dump({"app": {"hosts": {"new": entry(bare, ansible_ssh_common_args=options(known))}}})
    )
    # Without both roles: what is left logs in nowhere.
    words = typed(inventory, "ARGS=--skip-tags host_setup,docker_host")
    question = b"Type yes to keep them"
    refused = at_terminal(words, question, b"no")
    assert f"new (127.0.0.1 port {bare.port}) shows for the first time" in refused.output
    assert fingerprint(bare) in refused.output
    assert f"CONFIRM_HOST_KEYS={fingerprint(bare)} make provision ENV=prod" in flat(refused)
    assert not known.exists()
    accepted = at_terminal(words, question, b"yes")
    assert accepted.code == 0, accepted.output
    assert known.read_text().split()[:2] == [f"[127.0.0.1]:{bare.port}", "ssh-ed25519"]


def test_hosts_that_cannot_be_administered_are_left_as_they_are(bare: Host, tmp_path: Path) -> None:
    key_pair(tmp_path / "stranger")
    bare.run('printf \'#!/bin/sh\\nexec /usr/bin/date -d "2 hours" "$@"\\n\' | sudo tee /usr/local/bin/date >/dev/null')
    bare.run("sudo chmod 0755 /usr/local/bin/date")
    before = bare.run(STATE).stdout
    hosts = {
        "locked": entry(bare, ansible_ssh_private_key_file=str(tmp_path / "stranger"), deploy_root="/srv/1"),
        "humble": entry(bare, ansible_user="visitor", deploy_root="/srv/2"),
        "early": entry(bare, deploy_root="/srv/3"),
    }
    run = provision(tmp_path / "run", hosts, limit=40)
    after = bare.run(STATE).stdout
    bare.run("sudo rm /usr/local/bin/date")
    said = flat(run)
    assert "Host locked (127.0.0.1) cannot be reached: it refuses the login" in said
    assert f"Next: ssh -p {bare.port} deployer@127.0.0.1" in said
    assert "may not become root on humble: Missing sudo password Next: allow it" in said
    assert "The clock of early is 2 h 0 min ahead of this machine's" in said
    assert "Next: on early: timedatectl set-ntp true" in said
    assert after == before


def test_check_mode_works_on_a_bare_host(bare: Host, tmp_path: Path) -> None:
    before = bare.run(STATE).stdout
    run = provision(tmp_path, {bare.name: entry(bare)}, "--check", limit=RUN_SECONDS)
    assert changed(run, bare.name) >= 4
    assert "packages | Install python3, " in run.output
    assert bare.run(STATE).stdout == before


@pytest.fixture(scope="module")
def provisioned(bare: Host, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """The same host after its first run, as one is handed over: as root, its key confirmed through make."""
    scratch = tmp_path_factory.mktemp("first")
    known = scratch / "known_hosts"
    inventory = scratch / "hosts.yml"
    first = entry(bare, ansible_user="root", ansible_ssh_common_args=options(known))
    inventory.write_text(yaml.safe_dump({"app": {"hosts": {bare.name: first}}}))
    words = typed(inventory, f"CONFIRM_HOST_KEYS={fingerprint(bare)}")
    done = subprocess.run(
        words, cwd=ROOT, env=PLAIN, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=INSTALL_SECONDS, check=False,
    )  # fmt: skip
    run = Run(done.returncode, done.stdout)
    assert changed(run, bare.name) > 0
    assert known.read_text().split()[:2] == [f"[127.0.0.1]:{bare.port}", "ssh-ed25519"]
    assert "this host is a container" in run.output
    box = (
        "sudo apt-get install --quiet=2 --yes busybox-static >/dev/null 2>&1; path=$(readlink -f $(command -v busybox))"
    )
    serve = "sudo docker run --detach --restart always"
    bare.run(
        f"{box}; tar -c -C / ${{path#/}} | sudo docker import - box;"
        f"{serve} --name site --publish 80:80 box $path httpd -f -p 80;"
        f"{serve} --name inner --publish 8080:80 box $path httpd -f -p 80",
        timeout=120,
    )
    return bare


def login(host: Host, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as the deploy user, over a connection of its own."""
    words = host.ssh_words[:-1]
    return subprocess.run(
        [*words, f"{USER}@127.0.0.1", command], capture_output=True, text=True, timeout=20, check=False
    )


def test_from_nothing_to_an_engine_and_no_change_the_second_time(provisioned: Host, tmp_path: Path) -> None:
    host = provisioned
    assert host.run("sudo docker info --format '{{.Driver}}'").stdout.strip() == "overlay2"
    assert login(host, "sudo -n id -u; id -nG").stdout.split() == ["0", USER]
    assert host.run(f"sudo passwd -S {USER}").stdout.split()[1] == "L"
    told = host.run("sudo stat -c '%n %U %a' /srv/*/ /srv/*/*").stdout.split("\n")[:3]
    assert [line.split()[1:] for line in told] == [["root", "755"], ["root", "755"], ["root", "700"]]
    updates = host.run(
        "apt-config shell A APT::Periodic::Unattended-Upgrade; systemctl is-enabled apt-daily-upgrade.timer"
    )
    assert updates.stdout.split() == ["A='1'", "enabled"]
    assert changed(provision(tmp_path, {host.name: entry(host)}, limit=RUN_SECONDS), host.name) == 0


def answers(host: Host) -> dict[str, str]:
    """Ask the host's ports from another container on this machine's bridge; a port is open, refused or silent."""
    address = docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}", host.name).strip()
    inner = host.run("sudo docker inspect -f '{{.NetworkSettings.IPAddress}}' site").stdout.strip()
    script = f"""
ip route add {inner}/32 via {address}
ask() {{
  timeout {SILENT_SECONDS} bash -c "</dev/tcp/$1/$2" 2>/dev/null
  case $? in 0) echo $3 open ;; 124) echo $3 silent ;; *) echo $3 refused ;; esac
}}
for try in $(seq 40); do ask {address} 80 80 | grep -q open && break; sleep 0.5; done
for port in 22 80 443 8080 9999; do ask {address} $port $port & done
ask {inner} 80 routed
wait
"""
    told = docker("run", "--rm", "--cap-add", "NET_ADMIN", "--network", "bridge", "--entrypoint", "bash",
                  ensure_image(host.distro), "-c", script)  # fmt: skip
    return dict(line.split() for line in told.splitlines())


# Nothing listens on 443: an open port without a listener refuses, a closed one is silent.
EXPECTED = {"22": "open", "80": "open", "443": "refused", "8080": "silent", "9999": "silent", "routed": "silent"}


def test_only_open_ports_answer_another_host_also_after_restarts(provisioned: Host) -> None:
    assert provisioned.run("head -c 0 </dev/tcp/127.0.0.1/8080; echo $?").stdout.strip() == "0", (
        "it is not served at all"
    )
    assert answers(provisioned) == EXPECTED
    provisioned.run("sudo systemctl restart docker", timeout=60)
    assert answers(provisioned) == EXPECTED
    provisioned.reboot()
    assert answers(provisioned) == EXPECTED
    over_ipv6 = provisioned.run(f"sudo bash -c {shlex.quote(IPV6)}").stdout
    assert over_ipv6.splitlines() == ["22 open", "8080 closed"]


def test_a_firewall_that_would_lock_out_is_undone(provisioned: Host, tmp_path: Path) -> None:
    host = provisioned
    rules = host.run("sudo nft list table inet kit_firewall").stdout
    hosts = {host.name: entry(host, host_setup_open_ports=[80], ansible_ssh_timeout=SILENT_SECONDS)}
    said = flat(provision(tmp_path, hosts, limit=RUN_SECONDS))
    assert host.name in said
    assert "A new login failed after this change" in said
    assert "The change was undone" in said
    assert host.run("sudo nft list table inet kit_firewall").stdout == rules
    assert host.run("systemctl list-timers --all | grep -c kit-firewall-undo", check=False).stdout.strip() == "0"
    # A machine that dies between the two leaves it to the timer.
    script = "".join((ROLE / f"files/{name}.sh").read_text() for name in ("firewall", "guarded"))
    host.run(f"sudo sh -c {shlex.quote(script)} sh try 3 && sleep 5", stdin=LOCKED_OUT)
    assert host.run("sudo nft list table inet kit_firewall").stdout == rules
    # Rules that cannot be put back are not replaced.
    host.run("sudo install -m 0755 /dev/stdin /usr/local/bin/nft", stdin=UNREADABLE)
    tried = host.run(f"sudo sh -c {shlex.quote(script)} sh try 3", stdin=LOCKED_OUT, check=False)
    host.run("sudo rm /usr/local/bin/nft")
    assert tried.returncode != 0
    assert host.run("sudo nft list table inet kit_firewall").stdout == rules


UNREADABLE = b"""#!/bin/sh
[ "$1 $2" != "list table" ] || exit 1
exec /usr/sbin/nft "$@"
"""
LOCKED_OUT = b"""
table inet kit_firewall
delete table inet kit_firewall
table inet kit_firewall {
    chain prerouting {
        type filter hook prerouting priority -150;
        ct state new drop
    }
}
"""


def test_hardening_that_would_lock_out_is_undone(provisioned: Host, tmp_path: Path) -> None:
    host, password = provisioned, "a-password-that-is-typed"
    # Their key is somebody else's, so that it is the password that lets them in.
    stranger = key_pair(tmp_path / "stranger")
    host.run(
        f"sudo useradd --create-home --shell /bin/bash typist && echo 'typist:{password}' | sudo chpasswd;"
        "echo 'typist ALL=(ALL:ALL) NOPASSWD: ALL' | sudo tee /etc/sudoers.d/typist >/dev/null;"
        "sudo install -d -o typist -m 0700 /home/typist/.ssh;"
        f"echo '{stranger}' | sudo install -o typist -m 0600 /dev/stdin /home/typist/.ssh/authorized_keys"
    )
    own = entry(host, ansible_user="typist", ansible_password=password, host_setup_user_name="typist")
    said = flat(provision(tmp_path, {host.name: {**own, "host_setup_ssh_hardening": True}}, limit=RUN_SECONDS))
    assert "A new login failed after this change" in said
    assert "The change was undone" in said
    assert host.run("ls /etc/ssh/sshd_config.d/00-kit.conf", check=False).returncode != 0
    assert host.run("systemctl list-timers --all | grep -c kit-ssh-undo", check=False).stdout.strip() == "0"
    # They get in as before.
    assert changed(provision(tmp_path, {host.name: own}, limit=RUN_SECONDS), host.name) == 0


def test_ssh_is_hardened_when_the_deploy_user_has_logged_in(provisioned: Host, tmp_path: Path) -> None:
    host = provisioned
    early = provision(tmp_path, {host.name: entry(host, host_setup_ssh_hardening=True)}, limit=RUN_SECONDS)
    assert changed(early, host.name) == 0
    assert "not hardened yet" in early.output
    own = entry(host, host_setup_ssh_hardening=True, ansible_user=USER)
    assert changed(provision(tmp_path, {host.name: own}, limit=RUN_SECONDS), host.name) == 1
    effective = host.run("sudo sshd -T").stdout
    assert {"permitrootlogin no", "passwordauthentication no", "x11forwarding no"} <= set(effective.splitlines())
    assert login(host, "true").returncode == 0
