"""The engine's configuration, daemon.json: the kit's settings merged into what the user has there.

The kit sets only what the user has not set. What it wrote last time stands in a marker file beside it, so
that a changed or dropped setting of the kit follows, while a value that the user put there since then stays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kit_control.errors import KitError

PATH = "/etc/docker/daemon.json"

Settings = dict[str, Any]
Apply = Literal["none", "reload", "restart"]

# dockerd takes these from a SIGHUP (its reference, "Configuration reload behavior"); all else needs a
# restart.
RELOADABLE = frozenset({"live-restore", "registry-mirrors"})

# The kit's settings and the type that dockerd wants for each.
TYPES: Mapping[str, type] = {
    "log-driver": str,
    "log-opts": dict,
    "registry-mirrors": list,
    "live-restore": bool,
}

# Every key that Engine 20.10 reads. It has no `dockerd --validate` (that came with 23.0) and does not start
# on an unknown key, so for it the list is checked here. A closed set, as that series gets no more keys.
KEYS_OF_20_10 = frozenset(
    [
        "allow-nondistributable-artifacts",
        "api-cors-header",
        "authorization-plugins",
        "bip",
        "bridge",
        "builder",
        "cgroup-parent",
        "cluster-advertise",
        "cluster-store",
        "cluster-store-opts",
        "containerd",
        "containerd-namespace",
        "containerd-plugins-namespace",
        "cpu-rt-period",
        "cpu-rt-runtime",
        "data-root",
        "debug",
        "default-address-pools",
        "default-cgroupns-mode",
        "default-gateway",
        "default-gateway-v6",
        "default-ipc-mode",
        "default-runtime",
        "default-shm-size",
        "default-ulimits",
        "deprecated-key-path",
        "dns",
        "dns-opts",
        "dns-search",
        "exec-opts",
        "exec-root",
        "experimental",
        "features",
        "fixed-cidr",
        "fixed-cidr-v6",
        "graph",
        "group",
        "hosts",
        "icc",
        "init",
        "init-path",
        "insecure-registries",
        "ip",
        "ip-forward",
        "ip-masq",
        "ip6tables",
        "iptables",
        "ipv6",
        "labels",
        "live-restore",
        "log-driver",
        "log-level",
        "log-opts",
        "max-concurrent-downloads",
        "max-concurrent-uploads",
        "max-download-attempts",
        "mtu",
        "network-control-plane-mtu",
        "no-new-privileges",
        "no-proxy",
        "node-generic-resources",
        "oom-score-adjust",
        "pidfile",
        "raw-logs",
        "registry-mirrors",
        "rootless",
        "runtimes",
        "seccomp-profile",
        "selinux-enabled",
        "shutdown-timeout",
        "storage-driver",
        "storage-opts",
        "swarm-default-advertise-addr",
        "tls",
        "tlscacert",
        "tlscert",
        "tlskey",
        "tlsverify",
        "userland-proxy",
        "userland-proxy-path",
        "userns-remap",
    ]
)


@dataclass(frozen=True)
class Merge:
    """What daemon.json becomes.

    Attributes:
        content: the merged settings.
        changed: whether they differ from what stands there.
        apply: what the running engine needs to take them.
        kept: one sentence for each setting of the kit that gave way to the user's.
        written: the part that is the kit's own, to be recorded.
    """

    content: Settings
    changed: bool
    apply: Apply
    kept: tuple[str, ...]
    written: Settings


def wanted_settings(
    *, log_max_size: str, log_max_files: int, registry_mirrors: Sequence[str], live_restore: bool
) -> Settings:
    """Turn the role's inputs into dockerd's words.

    Args:
        log_max_size: size at which a container's log is rotated, such as ``10m``.
        log_max_files: log files kept for each container, the current one included.
        registry_mirrors: addresses of Docker Hub mirrors.
        live_restore: whether containers stay up while dockerd is restarted; false is dockerd's own default
            and is not written.

    Returns:
        Settings by key of daemon.json.
    """
    settings: Settings = {
        "log-driver": "json-file",
        "log-opts": {"max-size": log_max_size, "max-file": str(log_max_files)},
    }
    if registry_mirrors:
        settings["registry-mirrors"] = list(registry_mirrors)
    if live_restore:
        settings["live-restore"] = True
    return settings


def parse(text: str) -> Settings:
    """Read daemon.json.

    Args:
        text: its content; empty for a missing or empty file, which dockerd takes for no settings too.

    Returns:
        Settings by key.

    Raises:
        KitError: no JSON object, or one of the kit's keys has a type that dockerd refuses.
    """
    if not text.strip():
        return {}
    try:
        settings = json.loads(text)
    except json.JSONDecodeError as error:
        raise KitError(
            "engine_configuration",
            f"{PATH}, line {error.lineno}, column {error.colno}: this is no JSON: {error.msg}.",
            f"mend the file (python3 -m json.tool {PATH} shows the place), or move it away; then run this again.",
        ) from error
    if not isinstance(settings, dict):
        raise KitError(
            "engine_configuration",
            f"{PATH} holds {type(settings).__name__} where dockerd wants an object: {{...}}.",
            "mend the file or move it away; then run this again.",
        )
    wrong = [
        f"{PATH}: {key} is {json.dumps(settings[key])}, but dockerd wants a {kind.__name__}."
        for key, kind in TYPES.items()
        if key in settings and not isinstance(settings[key], kind)
    ]
    if wrong:
        raise KitError("engine_configuration", "\n".join(wrong), "mend the file; then run this again.")
    return settings


def check_keys(settings: Mapping[str, Any]) -> None:
    """Refuse keys that Engine 20.10 does not know.

    Args:
        settings: the content of daemon.json.

    Raises:
        KitError: names every unknown key.
    """
    unknown = sorted(set(settings) - KEYS_OF_20_10)
    if unknown:
        raise KitError(
            "engine_configuration",
            f"{PATH}: Engine 20.10 does not know {', '.join(unknown)} and would not start.",
            "take these keys out of the file; then run this again.",
        )


def _without(settings: Settings, part: Settings) -> Settings:
    """Take away what equals the part: nested keys and list items one by one, and what is empty thereby."""
    rest: Settings = {}
    for key, value in settings.items():
        other = part.get(key)
        if isinstance(value, dict) and isinstance(other, dict) and other:
            left: Any = _without(value, other)
        elif isinstance(value, list) and isinstance(other, list) and other:
            left = [item for item in value if item not in other]
        elif key in part and value == other:
            continue
        else:
            rest[key] = value
            continue
        if left:
            rest[key] = left
    return rest


def _with(settings: Settings, additions: Settings) -> Settings:
    """Add what is missing: nested keys one by one, list items at the end; a value that is there stays."""
    result = dict(settings)
    for key, value in additions.items():
        there = result.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            result[key] = _with(there, value)
        elif isinstance(value, list) and isinstance(there, list):
            result[key] = there + [item for item in value if item not in there]
        else:
            result.setdefault(key, value)
    return result


def _given_way(content: Settings, wanted: Settings, prefix: str = "") -> list[str]:
    """One sentence for each wanted single value that is not there."""
    notes: list[str] = []
    for key, value in wanted.items():
        if isinstance(value, dict):
            notes += _given_way(content.get(key, {}), value, f"{prefix}{key}.")
        elif not isinstance(value, list) and content.get(key) != value:
            notes.append(f"{prefix}{key} stays {json.dumps(content.get(key))}, not {json.dumps(value)}")
    return notes


def merge(current: Settings, wanted: Settings, written: Settings) -> Merge:
    """Merge the kit's settings into the user's.

    The user's values win; mirrors are added behind the user's. What the kit wrote earlier and nobody changed
    since then is the kit's to change or remove.

    Args:
        current: what daemon.json holds.
        wanted: the kit's settings, from :func:`wanted_settings`.
        written: what the kit wrote last time, from the marker; empty if never.

    Returns:
        The merged settings and what to do about them.
    """
    user = _without(current, written)
    additions, kept = dict(wanted), []
    if user.get("log-driver", wanted["log-driver"]) != wanted["log-driver"]:
        # Another driver refuses json-file's options, and with them every new container.
        del additions["log-driver"], additions["log-opts"]
        kept.append(f"log-driver stays {json.dumps(user['log-driver'])}, so log rotation is not set")
    content = _with(user, additions)
    kept += _given_way(content, additions)
    changed = {key for key in content.keys() | current.keys() if content.get(key, ...) != current.get(key, ...)}
    apply: Apply = "none"
    if changed:
        apply = "reload" if changed <= RELOADABLE else "restart"
    return Merge(content, bool(changed), apply, tuple(kept), _without(content, user))
