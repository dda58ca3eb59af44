"""Runs of hosts: bring up, reach, list, remove.

Containers and volumes carry labels that tell run, owner and checkout, so that a later run finds what a killed
one left behind, without any file.
"""

import io
import os
import random
import secrets
import shlex
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from testbed.engine import docker, facts, lines
from testbed.errors import TestbedError
from testbed.flags import DISTROS, EngineFacts, host_options, init_command
from testbed.image import USER, ensure_image

CHECKOUT = Path(__file__).resolve().parents[2]
RUNS = CHECKOUT / "build" / "testbed"

LABEL_RUN = "kit.testbed"
LABEL_OWNER = "kit.testbed.owner"
LABEL_CHECKOUT = "kit.testbed.checkout"

# Owner of hosts that a person brought up: they stay until `down` or until their checkout is gone.
MANUAL = "manual"

# Below the kernel's ephemeral ports (32768), so that no outgoing connection takes the port of a host that
# is just restarting.
PORTS = range(20000, 32000)
LOOPBACK = "127.0.0.1"

# A host answers 3 to 6 s after its start on a 2-core machine; far more means that it never will.
START_SECONDS = 60.0

# systemd as PID 1 halts on this one; on the engine's usual SIGTERM it only starts itself anew.
STOP_SIGNAL = "SIGRTMIN+3"
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Host:
    """One host of the bed and the way to it.

    Attributes:
        name: container name, also the host name inside and in the inventory.
        distro: Debian code name.
        port: port of its sshd on 127.0.0.1.
        folder: where key and known_hosts of its run lie.
        ports: published ports, inside -> on 127.0.0.1.
    """

    name: str
    distro: str
    port: int
    folder: Path
    ports: Mapping[int, int] = field(default_factory=dict)

    @property
    def ssh_options(self) -> list[str]:
        """Options for ssh and Ansible: this key only, and a host key that is known beforehand."""
        known = f"-oUserKnownHostsFile={self.folder / 'known_hosts'}"
        return [known, "-oStrictHostKeyChecking=yes", "-oIdentitiesOnly=yes"]

    @property
    def ssh_words(self) -> list[str]:
        """The words that start an ssh session on the host."""
        key = str(self.folder / "id_ed25519")
        words = ["ssh", "-F", "none", "-i", key, "-p", str(self.port), *self.ssh_options]
        return [*words, "-oBatchMode=yes", "-oConnectTimeout=5", f"{USER}@{LOOPBACK}"]

    def run(
        self, command: str, *, stdin: bytes | None = None, timeout: float = 60, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host as its unprivileged user, by a login shell's rules.

        Args:
            command: a bash command line, or several.
            stdin: bytes for its standard input.
            timeout: seconds after which the session is ended.
            check: raise when it fails.

        Returns:
            The finished process, output as text.

        Raises:
            TestbedError: the command took too long, or failed and `check` is set; the message holds the end of
                its output.
        """
        words = [*self.ssh_words, f"bash -lc {shlex.quote(command)}"]
        try:
            done = subprocess.run(words, input=stdin or b"", capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            said = (error.stdout or b"").decode(errors="replace")[-2000:]
            raise TestbedError(
                f"On {self.name}, no end within {timeout:.0f} s of:\n  {command}\n{said}", self._ssh_command
            ) from None
        result = subprocess.CompletedProcess(
            words, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )
        if check and result.returncode:
            tail = "\n".join((result.stdout + result.stderr).splitlines()[-40:])
            raise TestbedError(
                f"On {self.name}, exit status {result.returncode} from:\n  {command}\n{tail}", self._ssh_command
            )
        return result

    @property
    def _ssh_command(self) -> str:
        return f"ssh -F {self.folder / 'ssh_config'} {self.name}"

    def reboot(self) -> float:
        """Restart the host cleanly and wait for it.

        Returns:
            Seconds until it answered again.

        Raises:
            TestbedError: it did not come back.
        """
        begun = time.monotonic()
        docker("restart", "--time", "30", self.name)
        self.wait()
        return time.monotonic() - begun

    @property
    def address(self) -> str:
        """Where other containers and this machine reach it; another one after each start."""
        return docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}", self.name).strip()

    def wait(self) -> str:
        """Wait until sshd answers and systemd has started what it starts.

        Returns:
            `running` or `degraded`.

        Raises:
            TestbedError: not within START_SECONDS; the message holds what its systemd said.
        """
        deadline = time.monotonic() + START_SECONDS
        state = "no answer from sshd"
        while time.monotonic() < deadline:
            if _banner(self.port):
                answer = self.run("systemctl is-system-running --wait", check=False)
                state = answer.stdout.strip() or answer.stderr.strip()
                if state in ("running", "degraded"):
                    return state
            time.sleep(POLL_SECONDS)
        said = subprocess.run(
            ["docker", "logs", "--tail", "20", self.name], capture_output=True, text=True, check=False
        )
        raise TestbedError(
            f"{self.name} is not up after {START_SECONDS:.0f} s ({state}).\n{said.stdout}{said.stderr}",
            f"docker exec {self.name} journalctl -b --no-pager | tail -50",
        )


@dataclass(frozen=True)
class Run:
    """Hosts that were brought up together.

    Attributes:
        id: the run's id, in all its names.
        hosts: its hosts.
        folder: keys, known_hosts, ssh_config and inventory.yml.
    """

    id: str
    hosts: tuple[Host, ...]
    folder: Path

    @property
    def inventory(self) -> Path:
        """The file to pass as INVENTORY=."""
        return self.folder / "inventory.yml"


def up(
    *,
    hosts: int = 1,
    distro: str = "trixie",
    publish: Sequence[int] = (),
    variables: Mapping[str, object] | None = None,
    owner: str = MANUAL,
) -> Run:
    """Bring up fresh hosts.

    Args:
        hosts: how many.
        distro: Debian code name, one of DISTROS.
        publish: ports inside each host that also stand on a port of 127.0.0.1 here.
        variables: what the inventory says of the project, such as its host names.
        owner: MANUAL, or what `this_process()` gives: then the hosts are leftovers once it is dead.

    Returns:
        The run, every host answering.

    Raises:
        TestbedError: a bad argument, or a host did not come up; nothing of the run is left then.
    """
    if distro not in DISTROS:
        raise TestbedError(f"DISTRO={distro} is unknown.", f"DISTRO={' or DISTRO='.join(DISTROS)}")
    if not 1 <= hosts <= 9:
        raise TestbedError(f"HOSTS={hosts} is out of range.", "HOSTS=1 to HOSTS=9")
    sweep()
    image = ensure_image(distro)
    engine = facts()
    run_id = secrets.token_hex(3)
    folder = RUNS / run_id
    folder.mkdir(parents=True, mode=0o700)
    try:
        _key_pair(folder / "id_ed25519", f"kit-testbed-{run_id}")
        names = [f"kit-testbed-{run_id}-{number}" for number in range(1, hosts + 1)]
        made = tuple(_create(name, distro, image, engine, folder, publish, owner) for name in names)
        _write_access(folder, made, variables or {})
        for host in made:
            host.wait()
    except BaseException:
        down(run_id)
        raise
    return Run(run_id, made, folder)


def down(run_id: str) -> int:
    """Remove a run: containers, volumes, keys.

    Args:
        run_id: its id.

    Returns:
        How many containers were removed.
    """
    chosen = f"label={LABEL_RUN}={run_id}"
    containers = lines("ps", "--all", "--quiet", "--filter", chosen)
    volumes = lines("volume", "ls", "--quiet", "--filter", chosen)
    inner = _inner_containers(volumes)
    if containers:
        docker("rm", "--force", "--volumes", *containers)
    if volumes:
        docker("volume", "rm", "--force", *volumes)
    _remove_cgroups(inner)
    shutil.rmtree(RUNS / run_id, ignore_errors=True)
    return len(containers)


@contextmanager
def borrowed(
    *,
    hosts: int = 1,
    distro: str = "trixie",
    publish: Sequence[int] = (),
    variables: Mapping[str, object] | None = None,
) -> Iterator[Run]:
    """Have hosts for a while: removed at the end, and by any later run should this process be killed.

    Args:
        hosts: how many.
        distro: Debian code name, one of DISTROS.
        publish: ports inside each host that also stand on a port of 127.0.0.1 here.
        variables: what the inventory says of the project, such as its host names.

    Yields:
        The run.

    Raises:
        TestbedError: as `up`.
    """
    run = up(hosts=hosts, distro=distro, publish=publish, variables=variables, owner=this_process())
    try:
        yield run
    finally:
        down(run.id)


def down_manual() -> list[str]:
    """Remove the runs that people brought up from this checkout, and all leftovers.

    Returns:
        Ids of the removed runs.
    """
    mine = {run for run, owner, checkout in _labels() if owner == MANUAL and checkout == str(CHECKOUT)}
    for run_id in sorted(mine):
        down(run_id)
    return sorted(mine | set(sweep()))


def sweep() -> list[str]:
    """Remove runs whose owner is dead or whose checkout is gone.

    Returns:
        Ids of the removed runs.
    """
    left = {run for run, owner, checkout in _labels() if is_leftover(owner, Path(checkout).is_dir())}
    for run_id in sorted(left):
        down(run_id)
    return sorted(left)


def this_process() -> str:
    """Tell this process apart from any other one, also from a later one with the same number.

    Returns:
        `<process namespace>:<pid>:<start time in clock ticks since boot>`.
    """
    return f"{_namespace()}:{os.getpid()}:{_start_time(os.getpid())}"


def is_leftover(owner: str, checkout_exists: bool) -> bool:
    """Judge a run by its labels.

    Args:
        owner: MANUAL or what `this_process()` gave.
        checkout_exists: the folder that it was brought up from is still there.

    Returns:
        True when nobody can want it any more. An owner in another process namespace (a container that
        shares the engine) cannot be seen from here and counts as alive.
    """
    if owner == MANUAL:
        return not checkout_exists
    namespace, _, process = owner.partition(":")
    pid, _, started = process.partition(":")
    if namespace != _namespace() or not pid.isdecimal():
        return False
    return _start_time(int(pid)) != started


def _labels() -> set[tuple[str, str, str]]:
    # Volumes count too: a run killed between creating the volume and the container left only that.
    names = (LABEL_RUN, LABEL_OWNER, LABEL_CHECKOUT)
    form = "\t".join(f'{{{{.Label "{name}"}}}}' for name in names)
    found = lines("ps", "--all", "--filter", f"label={LABEL_RUN}", "--format", form)
    found += lines("volume", "ls", "--filter", f"label={LABEL_RUN}", "--format", form)
    return {(run, owner, checkout) for run, owner, checkout in (line.split("\t") for line in found)}


def _inner_containers(volumes: Sequence[str]) -> list[str]:
    found = []
    for volume in volumes:
        folder = Path(docker("volume", "inspect", "--format", "{{.Mountpoint}}", volume), "containers")
        if os.access(folder, os.R_OK):
            found += [path.name for path in folder.iterdir()]
    return found


def _remove_cgroups(containers: Sequence[str]) -> None:
    # Under cgroup v1 the hosts share the machine's tree, and a host that is killed leaves the (empty) groups of
    # its containers there. The kernel refuses to remove a group that is in use.
    for container in containers:
        for group in Path("/sys/fs/cgroup").glob(f"*/docker/{container}"):
            with suppress(OSError):
                group.rmdir()


def _namespace() -> str:
    return Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")


def _start_time(pid: int) -> str:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # The name in brackets may hold spaces; the start time is the 22nd field, the 20th after it.
    state, *rest = status.rpartition(")")[2].split()
    return "" if state == "Z" else rest[18]


def _create(
    name: str, distro: str, image: str, engine: EngineFacts, folder: Path, publish: Sequence[int], owner: str
) -> Host:
    volume = f"{name}-docker"
    labels: list[str] = []
    for label, value in (
        (LABEL_RUN, folder.name),
        (LABEL_OWNER, owner),
        (LABEL_CHECKOUT, str(CHECKOUT)),
    ):
        labels += ["--label", f"{label}={value}"]
    docker("volume", "create", *labels, volume)
    key = folder / f"{name}.hostkey"
    _key_pair(key, name)
    keys = _key_archive(key, folder / "id_ed25519")
    for attempt in range(5):
        inside = (22, *publish)
        outside = dict(zip(inside, free_ports(len(inside)), strict=True))
        ports = [word for port, to in outside.items() for word in ("--publish", f"{LOOPBACK}:{to}:{port}")]
        # The engine's default network on purpose: in a network of its own a host gets the engine's resolver
        # at 127.0.0.11, which containers inside the host cannot reach.
        docker(
            *("create", "--name", name, "--hostname", name, *labels, *ports, "--stop-signal", STOP_SIGNAL),
            *(*host_options(engine, volume), image, *init_command(engine, distro)),
        )
        docker("cp", "-", f"{name}:/", stdin=keys)
        try:
            docker("start", name)
        except TestbedError as error:
            if attempt == 4 or "port is already allocated" not in str(error):
                raise
            docker("rm", "--force", name)
            continue
        break
    public = key.with_name(key.name + ".pub").read_text().split()
    with (folder / "known_hosts").open("a") as known:
        known.write(f"[{LOOPBACK}]:{outside[22]} {public[0]} {public[1]}\n")
    return Host(name, distro, outside.pop(22), folder, outside)


def _key_pair(path: Path, comment: str) -> None:
    try:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        raise TestbedError(
            "`ssh-keygen` is not on PATH; hosts are reached by key only.", "apt-get install openssh-client"
        ) from None


def _key_archive(host_key: Path, login_key: Path) -> bytes:
    public = login_key.with_name(login_key.name + ".pub").read_bytes()
    # 1000 is the first user of a Debian system, here the only one.
    entries = (
        ("etc/ssh/ssh_host_ed25519_key", host_key.read_bytes(), 0o600, 0),
        ("etc/ssh/ssh_host_ed25519_key.pub", host_key.with_name(host_key.name + ".pub").read_bytes(), 0o644, 0),
        (f"home/{USER}/.ssh/authorized_keys", public, 0o600, 1000),
    )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, content, mode, owner in entries:
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode, entry.uid, entry.gid = len(content), mode, owner, owner
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def free_ports(count: int) -> list[int]:
    """Find ports of this machine's loopback that nobody listens on, none of which a connection is given by chance."""
    found: list[int] = []
    for port in random.sample(PORTS, 200):
        with socket.socket() as trial:
            try:
                trial.bind((LOOPBACK, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise TestbedError(f"No {count} free ports between {PORTS.start} and {PORTS.stop} on {LOOPBACK}.", "ss -ltn")


def _banner(port: int) -> bool:
    # The engine's proxy accepts before sshd listens, so only a greeting counts.
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _write_access(folder: Path, hosts: Sequence[Host], variables: Mapping[str, object]) -> None:
    entries: dict[str, dict[str, object]] = {}
    config = []
    for host in hosts:
        entries[host.name] = {
            # Where its ports are seen as on a network; SSH goes through a port of this machine.
            "smoke_address": host.address,
            "ansible_host": LOOPBACK,
            "ansible_port": host.port,
            "ansible_user": USER,
            "ansible_ssh_private_key_file": str(folder / "id_ed25519"),
            "ansible_ssh_common_args": " ".join(host.ssh_options),
            # Of the host and not of its group: those of an environment's group_vars would win over them.
            **variables,
        }
        if host.ports:
            entries[host.name]["testbed_ports"] = dict(host.ports)
        config.append(
            f"Host {host.name}\n  HostName {LOOPBACK}\n  Port {host.port}\n  User {USER}\n"
            f"  IdentityFile {folder / 'id_ed25519'}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {folder / 'known_hosts'}\n  StrictHostKeyChecking yes\n"
        )
    (folder / "inventory.yml").write_text(
        yaml.safe_dump({"app": {"hosts": entries, "vars": dict(variables)}}, sort_keys=False)
    )
    (folder / "ssh_config").write_text("\n".join(config))
