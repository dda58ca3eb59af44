"""The test bed's hosts are what they claim to be. In the order of the file: the engine is installed half-way."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from testbed.engine import docker, lines
from testbed.errors import TestbedError
from testbed.hosts import LABEL_OWNER, LABEL_RUN, Host, borrowed, down, sweep, this_process, up

pytestmark = pytest.mark.host

# The promise of `make testbed-up` once its image exists; 2 to 4 s were measured on 2 cores.
UP_SECONDS = 15

# Debian's base plus what the README asks for; a host that brings more would hide what the kit forgets.
ABSENT = ("docker", "dockerd", "containerd", "pip", "pip3", "uv", "ansible", "mmdebstrap", "gcc")


def left_of(run_id: str) -> list[str]:
    """Containers and volumes of a run."""
    chosen = f"label={LABEL_RUN}={run_id}"
    return lines("ps", "--all", "--quiet", "--filter", chosen) + lines("volume", "ls", "--quiet", "--filter", chosen)


def test_systemd_is_first_and_content(fresh_host: Host) -> None:
    assert fresh_host.run("readlink -f /proc/1/exe", check=False).returncode != 0, "PID 1 belongs to root"
    assert fresh_host.run("sudo readlink /proc/1/exe").stdout.strip().endswith("/systemd")
    assert fresh_host.run("systemctl --failed --no-legend").stdout == ""
    assert fresh_host.run(". /etc/os-release; echo $VERSION_CODENAME").stdout.strip() == fresh_host.distro


def test_a_boot_sets_nothing_of_the_shared_kernel(fresh_host: Host) -> None:
    units = ("systemd-sysctl.service", "systemd-modules-load.service", "systemd-timesyncd.service")
    told = fresh_host.run(f"systemctl show --property=LoadState --value {' '.join(units)}").stdout
    assert told.split() == ["masked"] * len(units)


def test_login_is_unprivileged_with_sudo(fresh_host: Host) -> None:
    assert fresh_host.run("id -u; sudo -n id -u").stdout.split() == ["1000", "0"]
    assert fresh_host.run("locale charmap").stdout.strip() == "UTF-8"


def test_only_a_key_opens_the_door(fresh_host: Host) -> None:
    words = [word for word in fresh_host.ssh_words if word != "-oBatchMode=yes"]
    key = words.index("-i")
    del words[key : key + 2]
    tried = subprocess.run(
        [*words, "-oIdentityFile=none", "-oIdentityAgent=none", "-oNumberOfPasswordPrompts=0", "true"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=30,
    )  # fmt: skip
    assert tried.returncode == 255
    assert "Permission denied (publickey)" in tried.stderr


def test_a_false_host_key_is_refused(fresh_host: Host, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    false = (tmp_path / "other.pub").read_text()
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{fresh_host.port} {false}")
    impostor = Host(fresh_host.name, fresh_host.distro, fresh_host.port, tmp_path)
    tried = impostor.run("true", check=False)
    assert tried.returncode == 255
    assert "Host key verification failed" in tried.stderr


def test_nothing_beyond_the_distribution(fresh_host: Host) -> None:
    found = fresh_host.run(f"for name in {' '.join(ABSENT)}; do command -v $name; done", check=False)
    assert found.stdout == ""
    assert "ensurepip is not" in fresh_host.run("python3 -m venv /home/deployer/trial", check=False).stdout
    fresh_host.run("rm -rf /home/deployer/trial; command -v git make python3 sudo curl; test ! -e ~/.config")


def test_the_company_certificate_is_in_the_system_store(fresh_host: Host) -> None:
    added = fresh_host.run("ls /usr/local/share/ca-certificates").stdout.split()
    for name in added:
        fresh_host.run(f"openssl verify -CApath /etc/ssl/certs /usr/local/share/ca-certificates/{name}")


def test_dangerous_capabilities_are_absent(fresh_host: Host) -> None:
    text = fresh_host.run("sudo grep CapBnd /proc/1/status").stdout
    mask = int(text.split()[1], 16)
    # SYS_MODULE is bit 16, SYS_TIME is bit 25 (linux/capability.h).
    assert mask & (1 << 16 | 1 << 25) == 0
    assert fresh_host.run('sudo date --set "$(date)"', check=False).returncode != 0


def test_sshd_listens_on_loopback_only(fresh_host: Host) -> None:
    assert docker("port", fresh_host.name) == f"22/tcp -> 127.0.0.1:{fresh_host.port}"


def test_ansible_takes_the_inventory(fresh_host: Host) -> None:
    inventory = fresh_host.folder / "inventory.yml"
    assert list(yaml.safe_load(inventory.read_text())["app"]["hosts"]) == [fresh_host.name]
    ansible = Path(sys.executable).with_name("ansible")
    words = [str(ansible), "-i", str(inventory), "app", "--become", "-m", "ansible.builtin.command", "-a", "id -un"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith("root")


def test_an_engine_runs_inside_and_survives_a_reboot(fresh_host: Host) -> None:
    fresh_host.run("sudo apt-get update -qq", timeout=120)
    packages = {"bookworm": "docker.io", "trixie": "docker.io docker-cli"}[fresh_host.distro]
    fresh_host.run(
        f"sudo DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends {packages} iptables "
        "busybox-static",
        timeout=300,
    )
    assert fresh_host.run("sudo docker info --format '{{.Driver}}'").stdout.strip() == "overlay2"
    fresh_host.run('tar -c -C / "$(readlink -f "$(command -v busybox)" | cut -c2-)" | sudo docker import - box')
    path = fresh_host.run('readlink -f "$(command -v busybox)"').stdout.strip()
    assert fresh_host.run(f"sudo docker run --rm box {path} echo inside").stdout.strip() == "inside"
    fresh_host.run(f"sudo docker run -d --name kept --restart always box {path} sleep 600")
    boot = fresh_host.run("sudo readlink /proc/1/ns/mnt; stat -c %Y /proc/1").stdout
    fresh_host.reboot()
    assert fresh_host.run("sudo readlink /proc/1/ns/mnt; stat -c %Y /proc/1").stdout != boot
    deadline = time.monotonic() + 20
    while fresh_host.run("sudo docker inspect -f '{{.State.Running}}' kept", check=False).stdout.strip() != "true":
        assert time.monotonic() < deadline, "the engine did not restart its container within 20 s of the reboot"
        time.sleep(0.5)


def test_two_hosts_are_up_in_time_and_leave_nothing(fresh_host: Host) -> None:
    begun = time.monotonic()
    with borrowed(hosts=2, distro=fresh_host.distro, publish=(8000,)) as run:
        assert time.monotonic() - begun < UP_SECONDS
        first, second = run.hosts
        address = first.run("hostname -I").stdout.split()[0]
        assert second.run(f"head -c 4 </dev/tcp/{address}/22").stdout == "SSH-"
        assert {host.run("cat /etc/machine-id").stdout for host in run.hosts} != {""}
        assert len({host.run("cat /etc/machine-id").stdout for host in run.hosts}) == 2
        assert docker("port", first.name, "8000/tcp") == f"127.0.0.1:{first.ports[8000]}"
        second.run("sudo mkdir -p /var/lib/docker/containers/x")
    assert left_of(run.id) == []
    assert not run.folder.exists()


def test_a_failure_inside_removes_the_hosts(fresh_host: Host) -> None:
    @contextmanager
    def failing() -> Iterator[str]:
        with borrowed(distro=fresh_host.distro) as run:
            yield run.id
            raise RuntimeError("as a failing test does")

    with pytest.raises(RuntimeError), failing() as run_id:
        assert left_of(run_id)
    assert left_of(run_id) == []


def test_leftovers_of_a_dead_run_are_removed_and_living_ones_kept(fresh_host: Host) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    namespace = this_process().partition(":")[0]
    run = up(distro=fresh_host.distro, owner=f"{namespace}:{ended.pid}:1")
    try:
        mine = docker("inspect", "--format", f'{{{{index .Config.Labels "{LABEL_OWNER}"}}}}', fresh_host.name)
        assert mine == this_process()
        assert run.id in sweep()
        assert left_of(run.id) == []
        assert left_of(fresh_host.folder.name)
    finally:
        down(run.id)


def test_bad_arguments_are_told_before_anything_starts() -> None:
    with pytest.raises(TestbedError, match="DISTRO=sid is unknown"):
        up(distro="sid")
    with pytest.raises(TestbedError, match="HOSTS=0 is out of range"):
        up(hosts=0)
