"""What was found of a Docker engine, judged: leave alone, start, install, add what is missing, or refuse.

The probe (roles/docker_host/files/probe.sh) prints lines of ``kit:<name> <value>``; everything here is pure.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kit_engine.preflight import OLDEST_COMPOSE, OLDEST_ENGINE

from kit_control.errors import KitError

Version = tuple[int, int]
Action = Literal["none", "start", "add", "install"]

DEFAULT_SOCKETS = ("", "unix:///var/run/docker.sock", "unix:///run/docker.sock")


@dataclass(frozen=True)
class Found:
    """The probe's answer.

    Attributes:
        uid: numeric user that asked.
        user: its name.
        free_bytes: of the disk below /var; what a host cannot tell counts as plenty.
        distribution: os-release ID, such as ``debian``.
        release: os-release VERSION_ID, such as ``12``.
        codename: os-release VERSION_CODENAME, such as ``bookworm``.
        systemd: whether PID 1 is systemd.
        client: path of the docker command, empty if there is none.
        daemon: whether a dockerd is installed on that machine.
        docker_host: DOCKER_HOST as the probe saw it.
        info: `docker info` as a mapping, empty without a client.
        messages: what `docker info` said besides.
        timed_out: whether the engine gave no answer in time.
        standalone: version line of a `docker-compose` command, asked for only where the plugin is missing.
        daemon_json: text of daemon.json.
        marker: what the kit recorded when it installed this engine; None if it did not.
    """

    uid: int
    user: str
    free_bytes: int = sys.maxsize
    distribution: str = ""
    release: str = ""
    codename: str = ""
    systemd: bool = False
    client: str = ""
    daemon: bool = False
    docker_host: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    messages: str = ""
    timed_out: bool = False
    standalone: str = ""
    daemon_json: str = ""
    marker: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Verdict:
    """What is to be done about the engine.

    Attributes:
        action: ``none`` (it works), ``start``, ``add`` (Compose or buildx), ``install``.
        missing: of ``compose`` and ``buildx``, those that are not there.
        kind: ``system``, ``rootless``, ``desktop`` or ``remote``; empty where nothing answers.
        versions: engine, compose, buildx as found.
        refused: the engine is there, but this user may not use it; nothing else is known of it then.
    """

    action: Action
    missing: tuple[str, ...] = ()
    kind: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    refused: bool = False


def fields(text: str) -> dict[str, list[str]]:
    """Read lines of ``kit:<name> <value>``.

    Args:
        text: output of a probe; other lines and carriage returns (a terminal's) are ignored.

    Returns:
        Values by name, in order.

    Raises:
        KitError: the probe's last line is missing, so it did not run to its end.
    """
    result: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("kit:"):
            name, _, value = line[4:].rstrip("\r").partition(" ")
            result.setdefault(name, []).append(value.strip())
    if "end" not in result:
        raise KitError(
            "engine",
            f"Looking for a Docker engine ended early. The host said: {text.strip()[-500:] or 'nothing'}",
            "log in on the host the way Ansible does and try `sh -c 'docker info'`.",
        )
    return result


def decode(value: str) -> str:
    """Text of a file that a probe sent as base64; empty if it is not readable as such."""
    try:
        return base64.b64decode(value, validate=True).decode("utf-8", "replace")
    except binascii.Error:
        return ""


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def read_probe(text: str) -> Found:
    """Read the probe's output.

    Args:
        text: standard output of probe.sh.

    Returns:
        What it found.

    Raises:
        KitError: it did not run to its end.
    """
    seen = fields(text)

    def first(name: str) -> str:
        return seen.get(name, [""])[0]

    info: dict[str, Any] = {}
    messages = []
    for line in seen.get("info", []):
        parsed = _json_object(line)
        if parsed:
            info = parsed
        elif line:
            messages.append(line)
    messages += [str(error) for error in info.get("ServerErrors") or []]
    distribution, release, codename, *_ = [*first("os").split(), "", "", ""]
    return Found(
        uid=int(first("uid")),
        user=first("user"),
        free_bytes=int(first("free_kib")) * 1024 if first("free_kib").isdigit() else sys.maxsize,
        distribution=distribution,
        release=release,
        codename=codename,
        systemd="systemd" in seen,
        client=first("docker"),
        daemon="dockerd" in seen,
        docker_host=first("docker_host"),
        info=info,
        messages="\n".join(messages),
        timed_out=first("status") == "124",
        standalone=first("standalone"),
        daemon_json=decode(first("daemon_json")),
        marker=_json_object(decode(first("marker"))) if "marker" in seen else None,
    )


def version_of(text: str) -> Version | None:
    """Major and minor number of a version as Docker's programs print it.

    Args:
        text: such as ``20.10.24+dfsg1``, ``v2.20.2``, ``2.26.1-4``, ``docker-compose version 1.29.2, build
            unknown``.

    Returns:
        The two numbers, or None where there are none.
    """
    match = re.search(r"(?<![\d.])v?(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _context(found: Found) -> str:
    return str((found.info.get("ClientInfo") or {}).get("Context") or "default")


def _elsewhere(found: Found) -> str:
    """Name the engine that the user points to, if it is not this machine's own."""
    if found.docker_host not in DEFAULT_SOCKETS:
        return f"DOCKER_HOST={found.docker_host}"
    # DOCKER_HOST, even with the default's address, overrides the context.
    if not found.docker_host and _context(found) != "default":
        return f"the Docker context {_context(found)}"
    return ""


def _kind(found: Found) -> str:
    if any("rootless" in str(option) for option in found.info.get("SecurityOptions") or []):
        return "rootless"
    if "Docker Desktop" in str(found.info.get("OperatingSystem")):
        return "desktop"
    return "remote" if _elsewhere(found) else "system"


def _plugins(found: Found) -> dict[str, str]:
    listed = (found.info.get("ClientInfo") or {}).get("Plugins") or []
    return {str(plugin.get("Name")): str(plugin.get("Version", "")) for plugin in listed if not plugin.get("Err")}


def _permission_error(found: Found, detail: str) -> KitError:
    socket = found.docker_host or "unix:///var/run/docker.sock"
    return KitError(
        "engine_permission",
        f"User {found.user} has no permission for the Docker engine at {socket}, and sudo is no way either: {detail}",
        "one of\n"
        f"  sudo usermod -aG docker {found.user}        then log out and in (this group is as good as root)\n"
        "  sudo without a password                 (visudo), through which the kit then goes by itself\n"
        "  dockerd-rootless-setuptool.sh install   for an engine of your own, without root",
    )


def root_error(found: Found, action: Action, detail: str) -> KitError:
    """Tell that the engine can only be seen to with root's rights, which are not to be had.

    Args:
        found: the probe's answer as the ordinary user.
        action: what would have to be done; ``none`` stands for using the engine.
        detail: what trying to become root said.

    Returns:
        The error to raise or show.
    """
    if action == "none":
        return _permission_error(found, detail)
    words = {"start": "started", "add": "completed with its plugins", "install": "installed"}[action]
    return KitError(
        "engine_root",
        f"A Docker engine must be {words} on this host, for which user {found.user} needs root's rights: {detail}",
        "run this as root, or give the user sudo; with a sudo password: make deploy ARGS=--ask-become-pass",
    )


def _check_versions(found: Found, versions: Mapping[str, str]) -> None:
    engine, compose = version_of(versions["engine"]), version_of(versions.get("compose", ""))
    if engine is None:
        raise KitError(
            "engine",
            f"{found.client} answers, but names no engine version. Podman's docker command does so, and the kit does "
            "not run on it.",
            "apt-get remove podman-docker, then run this again: it installs Docker Engine.",
        )
    if engine < OLDEST_ENGINE:
        raise KitError(
            "engine_too_old",
            f"The Docker engine ({_elsewhere(found) or 'this host'}) is {versions['engine']}; the kit needs "
            f"{_dotted(OLDEST_ENGINE)} or newer. It does not upgrade an engine that it did not install.",
            "upgrade it (apt-get update && apt-get install --only-upgrade docker.io, or docker-ce); "
            "then run this again.",
        )
    if compose is not None and compose < OLDEST_COMPOSE:
        raise KitError(
            "compose_too_old",
            f"Docker Compose is {versions['compose']}; the kit needs {_dotted(OLDEST_COMPOSE)} or newer.",
            "upgrade it (apt-get install --only-upgrade docker-compose-plugin, docker-compose-v2 or docker-compose, "
            "whichever `dpkg -l | grep compose` shows; a file of your own lies in ~/.docker/cli-plugins).",
        )


def _check_compose_v1(found: Found, plugins: Mapping[str, str]) -> None:
    version = version_of(found.standalone)
    if "compose" not in plugins and version is not None and version < (2, 0):
        raise KitError(
            "compose_v1",
            f"This host has only Docker Compose v1 ({found.standalone}), which ended in 2023; the kit needs "
            f"`docker compose` {_dotted(OLDEST_COMPOSE)} or newer and does not replace what other projects may use.",
            "apt-get remove docker-compose (or pip uninstall docker-compose), then run this again: it adds Compose v2.",
        )


def _check_answer(found: Found) -> None:
    """Refuse states that neither starting nor installing would mend."""
    if found.timed_out:
        raise KitError(
            "engine",
            f"The Docker engine ({_elsewhere(found) or 'this host'}) did not answer `docker info` within 20 s.",
            "see what it does: journalctl -u docker -n 50, or /var/log/dockerd.log; then restart it.",
        )
    if "Maximum supported API version" in found.messages:
        raise KitError(
            "engine_too_old",
            f"The Docker engine is too old for this docker command: {found.messages}",
            f"upgrade the engine to {_dotted(OLDEST_ENGINE)} or newer, then run this again.",
        )
    if "Minimum supported API version" in found.messages:
        raise KitError(
            "engine",
            f"{found.client} is too old for the Docker engine: {found.messages}",
            "upgrade the command (apt-get install --only-upgrade docker-cli or docker-ce-cli), then run this again.",
        )
    elsewhere = _elsewhere(found)
    if elsewhere:
        raise KitError(
            "engine_unreachable",
            f"You point docker to another engine ({elsewhere}), which does not answer: {found.messages}",
            "start that engine (Docker Desktop: open it; rootless: systemctl --user start docker), or use this "
            "machine's own: unset DOCKER_HOST DOCKER_CONTEXT; docker context use default",
        )


def judge(found: Found) -> Verdict:
    """Decide what the engine needs.

    Args:
        found: the probe's answer.

    Returns:
        What to do.

    Raises:
        KitError: a state that the user has to mend or decide: engine or Compose too old, Compose v1 only, an
            engine elsewhere that does not answer.
    """
    if not found.client:
        _check_compose_v1(found, {})
        return Verdict("install", ("compose", "buildx"))
    plugins = _plugins(found)
    missing = tuple(name for name in ("compose", "buildx") if name not in plugins)
    versions = {"engine": str(found.info.get("ServerVersion") or ""), **plugins}
    versions = {name: versions[name] for name in ("engine", "compose", "buildx") if name in versions}
    # Podman's docker command answers `info` in a form of its own.
    if versions["engine"] or (found.info and "ClientInfo" not in found.info):
        _check_versions(found, versions)
        _check_compose_v1(found, plugins)
        return Verdict("add" if missing else "none", missing, _kind(found), versions)
    if "permission denied" in found.messages.lower():
        return Verdict("none", refused=True)
    _check_answer(found)
    _check_compose_v1(found, plugins)
    if not found.daemon:
        return Verdict("install", missing)
    return Verdict("add" if missing else "start", missing)
