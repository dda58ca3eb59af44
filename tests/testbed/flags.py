"""Which options make a container a host: pure choices, no engine touched.

The options were measured, see the module constants for what each is for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

# Bit of CAP_SYS_RESOURCE in the capability masks of /proc/<pid>/status (linux/capability.h).
CAP_SYS_RESOURCE_BIT = 24

# A host of the bed shares the kernel: clock and modules set inside would be set for the whole machine.
ALWAYS_DROPPED = ("SYS_TIME", "SYS_MODULE")

# systemd 256 and later refuse cgroup v1 unless told twice; earlier ones need the first word only.
CGROUP_V1_WORDS = {
    "bookworm": ("systemd.unified_cgroup_hierarchy=0",),
    "trixie": ("systemd.unified_cgroup_hierarchy=0", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"),
}
DISTROS = tuple(sorted(CGROUP_V1_WORDS))


@dataclass(frozen=True)
class EngineFacts:
    """What decides the options.

    Attributes:
        cgroup_version: 1 or 2, as `docker info` tells.
        bounding_set: the machine's capability bounding set, as a bit mask.
    """

    cgroup_version: int
    bounding_set: int


def bounding_set(status: str) -> int:
    """Read the bounding set out of the text of /proc/self/status.

    Args:
        status: the file's text.

    Returns:
        The mask of its CapBnd line.

    Raises:
        ValueError: there is no such line.
    """
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "CapBnd":
            return int(value.strip(), 16)
    raise ValueError("no CapBnd line in the process status")


def dropped_capabilities(facts: EngineFacts) -> tuple[str, ...]:
    """Name the capabilities that a host must not ask for.

    Args:
        facts: what the machine offers.

    Returns:
        Names without the CAP_ prefix. SYS_RESOURCE only where the machine itself lacks it (the engine
        cannot grant it there and refuses to start the container); with it, a host may raise its limits.
    """
    lacks_resource = not facts.bounding_set >> CAP_SYS_RESOURCE_BIT & 1
    return (*ALWAYS_DROPPED, "SYS_RESOURCE") if lacks_resource else ALWAYS_DROPPED


def host_options(facts: EngineFacts, volume: str) -> list[str]:
    """Give the options of `docker create` that let systemd and an inner engine run.

    Args:
        facts: what the machine offers.
        volume: name of the volume for the inner engine's /var/lib/docker (overlay on overlay fails).

    Returns:
        The options, without name, labels and ports.
    """
    options = ["--cap-add", "ALL"]
    for name in dropped_capabilities(facts):
        options += ["--cap-drop", name]
    for profile in ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"):
        options += ["--security-opt", profile]
    options += ["--device-cgroup-rule", "a *:* rwm"]
    # Paths inside the host.
    options += ["--volume", f"{volume}:/var/lib/docker", "--tmpfs", "/run", "--tmpfs", "/tmp"]  # noqa: S108
    if facts.cgroup_version == 1:
        options += ["--cgroupns", "host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw"]
    else:
        options += ["--cgroupns", "private"]
    return options


def init_command(facts: EngineFacts, distro: str) -> Sequence[str]:
    """Give the command that becomes the host's PID 1.

    Args:
        facts: what the machine offers.
        distro: code name, one of DISTROS.

    Returns:
        Words of the command.
    """
    if facts.cgroup_version == 1:
        return ("/sbin/init", *CGROUP_V1_WORDS[distro])
    # The engine mounts the host's own cgroup tree read-only unless the container is privileged; the
    # capabilities at hand are enough to open it, and privileged would bring back what was dropped.
    return ("/bin/sh", "-c", "mount -o remount,rw /sys/fs/cgroup && exec /sbin/init")
