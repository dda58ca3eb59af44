"""What smoke checks judge: the stack as it is on this host, in one answer that holds no secret.

Every field is picked by name from what Docker says: environments, commands, labels and the output of health checks,
which may hold anything, are left where they are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional

from kit_engine import (
    backup_offsite,
    backup_schedule,
    bundle,
    command,
    disk,
    docker,
    maintenance,
    ports,
    readiness,
    releases,
)
from kit_engine import stack as stacks
from kit_engine.docker import Docker
from kit_engine.report import Report
from kit_engine.stack import Stack

STATIC_MANIFEST = "staticfiles.json"
# What decides how a container is bounded; Docker's own words.
_HOST_CONFIG = (
    *("CapAdd", "CapDrop", "CgroupParent", "CpuShares", "IpcMode", "Memory", "NanoCpus", "NetworkMode", "PidMode"),
    *("PidsLimit", "Privileged", "ReadonlyRootfs", "RestartPolicy", "SecurityOpt", "UTSMode", "Ulimits", "UsernsMode"),
)
_LOG_OPTIONS = ("max-size", "max-file")
# A process that Docker is just putting into a container is Docker's own.
_PASSING = "runc"
LOG_LINES = 15


def facts_verb(arguments: argparse.Namespace) -> None:
    """Tell the facts; the request: ``static`` (static files too), or ``logs`` (services: the end of their logs)."""
    report: Report = arguments.report
    asked = json.loads(arguments.request)
    found = Docker(stacks.load(arguments.root))
    told = _logs(found, asked["logs"]) if "logs" in asked else gather(found, static=bool(asked.get("static")))
    report.done({"changed": False, **told}, "")


def gather(found: Docker, *, static: bool) -> dict[str, Any]:
    """Collect the facts.

    Args:
        found: the stack's containers.
        static: whether the manifest of the static files is wanted; asking a container for it takes a while.

    Returns:
        The facts, ready for JSON.

    Raises:
        EngineError: the engine does not answer.
    """
    stack = found.stack
    # Each of these waits for another program: together they take as long as the slowest.
    with ThreadPoolExecutor(max_workers=6) as at_once:
        inspected = at_once.submit(found.inspected)
        published = at_once.submit(ports.published)
        disks = at_once.submit(_disks, stack)
        units = at_once.submit(_units, stack)
        schedule = at_once.submit(backup_schedule.state, stack)
        files = at_once.submit(_static_files, found) if static else None
        items = inspected.result()
        images = _image_ids(sorted({str(item["Config"]["Image"]) for item in items}))
        networks = _networks(sorted({name for item in items for name in item["NetworkSettings"]["Networks"]}))
        processes = _processes({str(item["Id"]): int(item["State"]["Pid"]) for item in items})
        listening = {(one.address, one.port) for one in ports.listening()}
        return {
            "time": time.time(),
            "name": stack.name,
            "env": stack.env,
            "project": stack.project,
            "release": stack.release,
            "release_state": _release_state(stack),
            "files": _hashes(stack),
            "nginx": _nginx(stack),
            "certificate": _certificate(stack),
            "maintenance": maintenance.is_on(stack),
            "containers": [
                {**_container(item, processes[item["Id"]]), "health": _health(found, item)} for item in items
            ],
            "images": images,
            "networks": networks,
            "listening": [{"address": address, "port": port} for address, port in sorted(listening)],
            "published": [
                {"address": address, "port": port, "container": name, "project": project}
                for address, port, name, project in sorted(published.result())
            ],
            "disks": disks.result(),
            "app_logs": _sizes(stack.root / "shared/logs"),
            "units": units.result(),
            "schedule": schedule.result(),
            "offsite": backup_offsite.described(stack),
            "static": files.result() if files else None,
        }


def _health(found: Docker, item: Mapping[str, Any]) -> str:
    """Docker's word; of one that has just started, what its own check says now."""
    told = docker.container_of(item)
    return "healthy" if told.health == "starting" and readiness.is_healthy(found, told) else told.health


def _container(item: Mapping[str, Any], processes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    config, state, host = item["Config"], item["State"], item["HostConfig"]
    labels = config.get("Labels") or {}
    bindings = host.get("PortBindings") or {}
    log = host.get("LogConfig") or {}
    options = log.get("Config") or {}
    return {
        "id": item["Id"],
        "name": item["Name"].lstrip("/"),
        "service": labels.get(docker.SERVICE_LABEL, ""),
        "image": item["Image"],
        "reference": config["Image"],
        "state": state["Status"],
        "exit_code": state.get("ExitCode", 0),
        "out_of_memory": bool(state.get("OOMKilled")),
        "restarts": item.get("RestartCount", 0),
        "user": config.get("User", ""),
        "apparmor": item.get("AppArmorProfile", ""),
        "settings": {name: host.get(name) for name in _HOST_CONFIG},
        "mounts": [
            {name.lower(): mount.get(name, "") for name in ("Type", "Source", "Destination", "RW", "Propagation")}
            for mount in item.get("Mounts") or ()
        ],
        "ports": [
            {"address": bound.get("HostIp", ""), "port": int(bound.get("HostPort") or 0), "inside": inside}
            for inside, bound_to in sorted(bindings.items())
            for bound in bound_to or ()
        ],
        "networks": sorted(item["NetworkSettings"]["Networks"]),
        "log": {
            "driver": log.get("Type", ""),
            "options": {name: options[name] for name in _LOG_OPTIONS if name in options},
            "bytes": _log_bytes(item.get("LogPath") or ""),
        },
        "processes": list(processes),
    }


def _processes(containers: Mapping[str, int], proc: Path = Path("/proc")) -> dict[str, list[dict[str, Any]]]:
    """Tell who runs in each container, by its id in their control groups; none where the engine is elsewhere.

    Args:
        containers: number of the first process by container. What does not come from it is no part of the service, but
            was put in beside it for a moment: a health check, which has the container's own user.
        proc: of the system.
    """
    found: dict[str, list[dict[str, Any]]] = {container: [] for container in containers}
    parents: dict[int, int] = {}
    for folder in proc.glob("[0-9]*"):
        try:
            groups = (folder / "cgroup").read_text()
            container = next((one for one in containers if one in groups), None)
            if container is None:
                continue
            lines = (folder / "status").read_text().splitlines()
        except OSError:
            continue
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        if status.get("Name", "").startswith(_PASSING):
            continue
        parents[int(folder.name)] = int(status["PPid"])
        found[container].append(
            {
                "pid": int(folder.name),
                "name": status.get("Name", ""),
                "uid": int(status["Uid"].split()[1]),
                "capabilities": status.get("CapEff", ""),
                "no_new_privileges": status.get("NoNewPrivs", "0").strip() == "1",
            }
        )

    def comes_from(pid: int, first: int) -> bool:
        while pid != first and pid in parents:
            pid = parents[pid]
        return pid == first

    return {
        container: [one for one in rows if comes_from(one["pid"], containers[container])]
        for container, rows in found.items()
    }


def _image_ids(references: Sequence[str]) -> dict[str, str]:
    """Tell which image each name stands for now; empty where it is gone."""
    if not references:
        return {}
    done = command.run(["docker", "image", "inspect", "--format", "{{.Id}}", *references])
    ids = done.out.split()
    if len(ids) == len(references):
        return dict(zip(references, ids))
    # One of them is gone, and Docker does not say which line it left out.
    return {reference: docker.image_id(reference) for reference in references}


def _networks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    if not names:
        return {}
    form = "{{.Name}} {{.Internal}}"
    lines = command.run(["docker", "network", "inspect", "--format", form, *names]).out.splitlines()
    return {name: {"internal": internal == "true"} for name, _, internal in (line.partition(" ") for line in lines)}


def _disks(stack: Stack) -> list[dict[str, Any]]:
    places = (stack.root, disk.engine_folder())
    return [
        {"path": str(place), "free": shutil.disk_usage(place).free, "total": shutil.disk_usage(place).total}
        for place in places
        if place and place.is_dir()
    ]


def _units(stack: Stack) -> list[dict[str, str]]:
    """Timers, and what they start, that carry the project's name."""
    if shutil.which("systemctl") is None:
        return []
    words = ["systemctl", "list-units", "--all", "--plain", "--no-legend", "--type=timer,service"]
    done = command.run([*words, *sorted({f"{stack.name}-*", f"{stack.project}*"})])
    rows = (line.split(None, 4) for line in done.out.splitlines())
    return [{"unit": row[0], "active": row[2]} for row in rows if len(row) >= 4]


def _static_files(found: Docker) -> Optional[list[str]]:
    """List the published static files by their manifest; None where the project has none."""
    files = found.stack.app_files
    web = next((item for item in found.of(found.stack.web) if item.running), None)
    if files is None or web is None:
        return None
    done = found.execute(web, ["cat", f"{files.static_root}/{STATIC_MANIFEST}"], limit=command.QUICK_SECONDS)
    try:
        return sorted(str(path) for path in json.loads(done.out)["paths"].values())
    except (ValueError, KeyError, AttributeError):
        return None


def _hashes(stack: Stack) -> dict[str, str]:
    """Hash the files that say what should run, to be compared with what was rendered."""
    return {
        name: hashlib.sha256((stack.bundle / name).read_bytes()).hexdigest()
        for name in (stack.compose_file, stacks.FILE_NAME)
    }


def _nginx(stack: Stack) -> str:
    """Hash the files that nginx reads; empty where there are none."""
    folder = stack.root / "shared/nginx/conf" / stacks.CURRENT
    return bundle.hash_of(folder.resolve()) if stack.has_edge and folder.is_dir() else ""


def _certificate(stack: Stack) -> str:
    """Give the installed certificate, which is public; empty where there is none."""
    path = stack.root / "shared/nginx/ssl" / stack.name / stacks.CURRENT / "fullchain.pem"
    return path.read_text(encoding="ascii", errors="replace") if stack.has_edge and path.is_file() else ""


def _release_state(stack: Stack) -> str:
    record = releases.read(stack.root, stack.release) if stack.release else None
    return record.state if record else ""


def _log_bytes(path: str) -> Optional[int]:
    """Measure a container's log with its rotated parts; None where it cannot be seen."""
    try:
        parts = list(Path(path).parent.glob(f"{Path(path).name}*")) if path else []
        return sum(part.stat().st_size for part in parts) if parts else None
    except OSError:
        return None


def _sizes(folder: Path) -> dict[str, int]:
    if not folder.is_dir():
        return {}
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}


def _logs(found: Docker, services: Sequence[str]) -> dict[str, Any]:
    """The end of some services' logs, as `make logs` shows it."""
    told = {}
    for service in services:
        parts = []
        for container in found.of(service):
            done = command.run(["docker", "logs", "--tail", str(LOG_LINES), container.id])
            parts.append(command.tail(f"{done.out}\n{done.err}", LOG_LINES))
        told[service] = "\n".join(parts)
    return {"logs": told}
