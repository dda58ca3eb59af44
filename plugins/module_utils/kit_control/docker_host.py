"""The decisions of the role docker_host, as plain values for its tasks.

A problem comes back as ``problem`` (the message to fail with) and ``code``, not as an exception, because
Ansible wraps the lines of a filter's exception in words of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from kit_control import docker_daemon, docker_engine, docker_packages
from kit_control.errors import KitError

# `dockerd --validate` came with it; an older engine's keys are checked here instead.
FIRST_WITH_VALIDATE: docker_engine.Version = (23, 0)


def state(probe: str, settings: Mapping[str, Any], manage_daemon_json: bool, root_failure: str = "") -> dict[str, Any]:
    """Judge what probe.sh printed.

    Args:
        probe: its standard output.
        settings: keyword arguments of :func:`kit_control.docker_daemon.wanted_settings`.
        manage_daemon_json: whether the settings also go to an engine that the kit did not install.
        root_failure: what a try to become root said, if it failed.

    Returns:
        The verdict's fields, ``uid``, ``free_bytes`` below /var, the system's names, ``local`` (this machine's own
        engine), ``owned`` (the kit installed or will install it), ``daemon`` (what daemon.json becomes; None where it
        is left alone), ``problem``.
    """
    try:
        found = docker_engine.read_probe(probe)
        verdict = docker_engine.judge(found)
        if root_failure:
            raise docker_engine.root_error(found, verdict.action, root_failure)
        local = verdict.kind in ("", "system")
        owned = bool((found.marker or {}).get("installed")) or verdict.action == "install"
        managed = local and (owned or manage_daemon_json) and not verdict.refused
        return {
            **asdict(verdict),
            "missing": list(verdict.missing),
            "uid": found.uid,
            "free_bytes": found.free_bytes,
            "distribution": found.distribution,
            "release": found.release,
            "codename": found.codename,
            "local": local,
            "owned": owned,
            "daemon": _daemon(found, verdict, settings, owned) if managed else None,
            "problem": "",
        }
    except KitError as error:
        return {"problem": str(error), "code": error.code}


def _daemon(
    found: docker_engine.Found, verdict: docker_engine.Verdict, settings: Mapping[str, Any], owned: bool
) -> dict[str, Any]:
    written = (found.marker or {}).get("daemon", {})
    current = docker_daemon.parse(found.daemon_json)
    merge = docker_daemon.merge(current, docker_daemon.wanted_settings(**settings), written)
    version = docker_engine.version_of(verdict.versions.get("engine", ""))
    if merge.changed and version is not None and version < FIRST_WITH_VALIDATE:
        docker_daemon.check_keys(merge.content)
    return {
        "changed": merge.changed,
        "apply": merge.apply,
        "kept": list(merge.kept),
        "text": json.dumps(merge.content, indent=2) + "\n",
        "record": found.marker is None or merge.written != written,
        "marker": _marker(owned, merge.written),
        "marker_before": _marker(owned, written),
    }


def _marker(installed: bool, written: Mapping[str, Any]) -> str:
    return json.dumps({"schema": 1, "installed": installed, "daemon": written}, indent=2) + "\n"


def plan(
    details: str,
    found: Mapping[str, Any],
    source: str,
    repository: str,
    answers: Sequence[Mapping[str, Any]],
    fingerprint: str,
) -> dict[str, Any]:
    """Choose what to install.

    Args:
        details: standard output of details.sh.
        found: from :func:`state`.
        source: ``docker``, ``distribution`` or ``auto``.
        repository: address of Docker's apt repository, without the distribution's name.
        answers: how it answered the host (results of Ansible's uri module).
        fingerprint: of its signing key.

    Returns:
        ``source``, ``why``, ``packages``, ``files`` (each ``path`` and ``content``), ``problem``.
    """
    try:
        missing = (["engine"] if found["action"] == "install" else []) + list(found["missing"])
        chosen = docker_packages.plan(
            distribution=found["distribution"],
            version=found["release"],
            wanted_source=source,
            missing=missing,
            details=docker_packages.read_details(details),
            reach=docker_packages.reach_of(repository, answers),
            fingerprint=fingerprint,
        )
    except KitError as error:
        return {"problem": str(error), "code": error.code}
    return {
        "source": chosen.source,
        "why": chosen.why,
        "packages": list(chosen.packages),
        "files": [{"path": path, "content": content} for path, content in chosen.files.items()],
        "problem": "",
    }
