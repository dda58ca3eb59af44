"""docker-bench-security's container table (CIS Docker 1.6.0, section 5; STACK.md 3.1), the only copy.

It judges a rendered service before a deploy and a running container after it: both are brought to one shape first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# Docker's default capabilities; 5.4 allows a container to have these and no others.
DEFAULT_CAPABILITIES = {
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE"),
    *("NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
}
FORBIDDEN_MOUNTS = {"/", "/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr", "/var/run/docker.sock"}
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - what Docker takes no address for


@dataclass(frozen=True)
class Container:
    """How a container is bounded, whether it runs or is only described.

    Attributes:
        shared: namespaces that it shares with the host: ``network pid ipc uts user``.
        mounts: what it mounts from the host; ``propagation`` holds the ways of it.
        ports: published ports as (address, port on the host).
        retries: how often Docker restarts it after failures; 0 for one that is restarted unless stopped.
    """

    security_options: frozenset[str]
    apparmor: str
    dropped: frozenset[str]
    added: frozenset[str]
    privileged: bool
    shared: frozenset[str]
    mounts: frozenset[str]
    propagation: frozenset[str]
    ports: tuple[tuple[str, int], ...]
    memory: bool
    cpus: bool
    read_only: bool
    restart: str
    retries: int
    cgroup_parent: str
    health_check: bool
    processes: int
    networks: frozenset[str]
    log_options: Mapping[str, str]
    open_files: bool


def of_service(service: Mapping[str, Any]) -> Container:
    """Describe a service of a rendered Compose file."""
    volumes = [str(volume).split(":") for volume in service.get("volumes", [])]
    keys = {"network": "network_mode", "pid": "pid", "ipc": "ipc", "uts": "uts", "user": "userns_mode"}
    return Container(
        security_options=frozenset(service.get("security_opt", [])),
        apparmor="",
        dropped=frozenset(service.get("cap_drop", [])),
        added=frozenset(service.get("cap_add", [])),
        privileged=bool(service.get("privileged")),
        shared=frozenset(name for name, key in keys.items() if key in service),
        mounts=frozenset(parts[0] for parts in volumes),
        propagation=frozenset(word for parts in volumes for word in parts[2:3] if "shared" in word),
        ports=tuple(_port(str(entry)) for entry in service.get("ports", [])),
        memory=bool(service.get("mem_limit")),
        cpus=bool(service.get("cpus")),
        read_only=service.get("read_only") is True,
        restart=str(service.get("restart", "")),
        retries=0,
        cgroup_parent=str(service.get("cgroup_parent", "")),
        health_check=bool(service.get("healthcheck", {}).get("test")),
        processes=int(service.get("pids_limit", 0)),
        networks=frozenset(service.get("networks", [])),
        log_options={key: str(value) for key, value in service.get("logging", {}).get("options", {}).items()},
        open_files=int(service.get("ulimits", {}).get("nofile", 0)) > 0,
    )


def of_facts(facts: Mapping[str, Any]) -> Container:
    """Describe a running container by the engine's verb `facts`, which is `docker inspect` by Docker's own names."""
    settings = facts["settings"]
    modes = {"network": "NetworkMode", "pid": "PidMode", "ipc": "IpcMode", "uts": "UTSMode", "user": "UsernsMode"}
    policy = settings["RestartPolicy"] or {}
    return Container(
        # The engine writes the same option with either sign.
        security_options=frozenset(_option(one) for one in settings["SecurityOpt"] or ()),
        apparmor=facts["apparmor"],
        dropped=frozenset(_capability(one) for one in settings["CapDrop"] or ()),
        added=frozenset(_capability(one) for one in settings["CapAdd"] or ()),
        privileged=bool(settings["Privileged"]),
        shared=frozenset(name for name, key in modes.items() if settings[key] == "host"),
        mounts=frozenset(mount["source"] for mount in facts["mounts"] if mount["type"] == "bind"),
        propagation=frozenset(mount["propagation"] for mount in facts["mounts"] if "shared" in mount["propagation"]),
        ports=tuple((port["address"] or EVERY_ADDRESS, port["port"]) for port in facts["ports"]),
        memory=bool(settings["Memory"]),
        cpus=bool(settings["NanoCpus"] or settings["CpuShares"]),
        read_only=bool(settings["ReadonlyRootfs"]),
        restart=str(policy.get("Name", "")),
        retries=int(policy.get("MaximumRetryCount", 0)),
        cgroup_parent=str(settings["CgroupParent"] or ""),
        health_check=bool(facts["health"]),
        processes=int(settings["PidsLimit"] or 0),
        networks=frozenset(facts["networks"]),
        log_options=facts["log"]["options"],
        open_files=any(limit["Name"] == "nofile" and limit["Hard"] > 0 for limit in settings["Ulimits"] or ()),
    )


def _port(entry: str) -> tuple[str, int]:
    *address, port, _container = entry.rsplit(":", 2)
    return (address[0] if address else EVERY_ADDRESS, int(port))


def _option(word: str) -> str:
    return "no-new-privileges:true" if word in ("no-new-privileges", "no-new-privileges=true") else word


def _capability(name: str) -> str:
    return name.removeprefix("CAP_")


RULES: dict[str, Callable[[Container], bool]] = {
    "5.2 AppArmor as given": lambda c: c.apparmor != "unconfined" and not _unconfined(c, "apparmor"),
    "5.3 5.26 no new privileges": lambda c: "no-new-privileges:true" in c.security_options,
    "5.4 capabilities": lambda c: c.dropped == {"ALL"} and c.added <= DEFAULT_CAPABILITIES,
    "5.5 not privileged": lambda c: not c.privileged,
    "5.10 5.16 5.17 5.21 5.31 no host namespaces": lambda c: not c.shared,
    "5.6 5.32 no system folders": lambda c: not (c.mounts & FORBIDDEN_MOUNTS),
    "5.8 no port under 1025": lambda c: all(port > 1024 for _address, port in c.ports),
    "5.9 5.14 no port on every address": lambda c: all(address == "127.0.0.1" for address, _port in c.ports),
    "5.11 memory limit": lambda c: c.memory,
    "5.12 CPU limit": lambda c: c.cpus,
    "5.13 read-only root": lambda c: c.read_only,
    "5.15 restart policy": lambda c: c.restart == "unless-stopped" and c.retries <= 5,
    "5.20 no shared propagation": lambda c: not c.propagation,
    "5.22 seccomp as given": lambda c: not _unconfined(c, "seccomp"),
    "5.25 cgroup as given": lambda c: not c.cgroup_parent,
    "5.27 health check": lambda c: c.health_check,
    "5.29 process limit": lambda c: c.processes > 0,
    "5.30 not on Docker's own bridge": lambda c: "bridge" not in c.networks,
    "log rotation": lambda c: c.log_options.keys() >= {"max-size", "max-file"},
    "open file limit": lambda c: c.open_files,
}
# Which rule a service may break, and why.
ACCEPTED = {
    ("nginx", "5.8 no port under 1025"): "the site's own ports are 80 and 443",
    (
        "nginx",
        "5.9 5.14 no port on every address",
    ): "the site is there to be reached; release_bundle_edge_address narrows it",
}


def _unconfined(container: Container, what: str) -> bool:
    return any(option.startswith(what) and "unconfined" in option for option in container.security_options)
