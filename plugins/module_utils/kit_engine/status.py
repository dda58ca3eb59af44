"""How a stack and its host are: for people one screen, for programs one JSON object."""

from __future__ import annotations

import argparse
import shutil
import time
from calendar import timegm
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

from kit_engine import backup, backup_offsite, backup_schedule, certificate, disk, maintenance, releases, verbs
from kit_engine import readiness as ready
from kit_engine.docker import Container, Docker
from kit_engine.report import duration
from kit_engine.stack import Stack

MIB, GIB = 2**20, 2**30
# Half a renewal period of a certificate that lives 90 days: below it, somebody should look.
FEW_DAYS = 14
_CGROUPS = Path("/sys/fs/cgroup")
# By version of the control groups: the folder of the memory controller, the file with its usage, and the word in
# memory.stat for cached files, which the kernel takes back when it must. Docker's own numbers are made the same way.
_MEMORY = {
    "memory": ("memory", "memory.usage_in_bytes", "total_inactive_file"),
    "": ("", "memory.current", "inactive_file"),
}


def status_verb(docker: Docker, arguments: argparse.Namespace) -> None:
    """Show the release, each container, the certificates, the last backup and the disks."""
    stack = docker.stack
    containers = docker.containers()
    problem = ready.ask(stack.probe, stack.probe.ready) if containers else "it is down"
    result: dict[str, Any] = {
        "name": stack.name,
        "env": stack.env,
        "project": stack.project,
        "url": verbs.site_url(docker),
        "ready": problem is None,
        "problem": problem,
        "release": release_of(stack),
        "maintenance": maintenance.state(stack.root) if stack.has_edge else None,
        "containers": [_row(item) for item in containers],
        "missing": [service for service in stack.services if service not in {item.service for item in containers}],
        "certificates": certificates(stack),
        "backup": last_backup(stack),
        "restored": last_restored(stack),
        "offsite": backup_offsite.described(stack),
        "schedule": backup_schedule.state(stack),
        "disks": disks(stack),
    }
    arguments.report.done(result, text(stack, result))


def release_of(stack: Stack) -> Optional[dict[str, Any]]:
    """Tell which release serves.

    Args:
        stack: whose.

    Returns:
        ``id``, ``ref``, ``sha``, ``who``, ``finished`` and ``age`` in seconds; what the record does not tell is empty,
        and the age None. None for local, whose working tree is no release.
    """
    if not stack.release:
        return None
    record = releases.read(stack.root, stack.release) or releases.Record(id=stack.release, env=stack.env)
    told = {name: value for name, value in asdict(record).items() if name in ("id", "ref", "sha", "who", "finished")}
    return {**told, "age": _age(record.finished)}


def certificates(stack: Stack) -> list[dict[str, Any]]:
    """List the certificates that nginx uses, with the days that each has left.

    Args:
        stack: whose.

    Returns:
        ``name`` and ``days_left``, below zero for one that has run out. Nothing for a stack without nginx, or where
        none can be read.
    """
    if stack.edge is None:
        return []
    rows = certificate.installed(certificate.Place(stack.root, stack.name, stack.edge.uid))
    return [{"name": stack.name, "days_left": row["days_left"]} for row in rows if row["current"]]


def last_backup(stack: Stack) -> Optional[dict[str, Any]]:
    """Tell of the newest backup on this host.

    Args:
        stack: whose.

    Returns:
        ``id``, ``bytes``, ``level`` of verification, ``age`` in seconds, ``text`` for people; None where there is none.
    """
    found = backup.newest(stack.root)
    if found is None:
        return None
    told = {name: found[name] for name in ("id", "bytes", "level", "age")}
    return {**told, "text": backup.line(found)}


def last_restored(stack: Stack) -> Optional[dict[str, Any]]:
    """Tell of the backup that was restored last, for a test or by a drill.

    Args:
        stack: whose.

    Returns:
        ``id``, ``age`` of the backup and ``since`` it was restored, both in seconds; None where none ever was.
    """
    found = backup.last_restored(stack.root)
    if found is None:
        return None
    return {"id": found["id"], "age": found["age"], "since": max(0.0, time.time() - found["restored"])}


def disks(stack: Stack) -> list[dict[str, Any]]:
    """Measure the disks that the deploy root and the engine's data lie on, each once.

    Args:
        stack: whose deploy root.

    Returns:
        ``path``, ``free`` and ``total`` in bytes, and ``low``: whether a deploy would find too little.
    """
    seen: dict[int, dict[str, Any]] = {}
    for place in (stack.root, disk.engine_folder()):
        if place and place.is_dir():
            size = shutil.disk_usage(place)
            low = size.free < stack.limits.min_free_bytes
            entry = {"path": str(place), "free": size.free, "total": size.total, "low": low}
            seen.setdefault(place.stat().st_dev, entry)
    return list(seen.values())


def memory(container: Container) -> Optional[int]:
    """Read how much memory a container uses, from its control group: `docker stats` takes seconds to tell the same.

    Args:
        container: which.

    Returns:
        Bytes, without cached files; None where it does not run, or not on this kernel.
    """
    try:
        groups = Path(f"/proc/{container.pid}/cgroup").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in groups.splitlines():
        _, controllers, place = line.split(":", 2)
        for controller, (folder, usage, cached) in _MEMORY.items():
            # The engine's process numbers may be those of another machine: then the group is another's.
            if controller not in controllers.split(",") or container.id not in place:
                continue
            group = _CGROUPS / folder / place.lstrip("/")
            try:
                used = int((group / usage).read_text(encoding="ascii"))
                counters = dict(row.split() for row in (group / "memory.stat").read_text(encoding="ascii").splitlines())
            except (OSError, ValueError):
                continue
            return max(0, used - int(counters.get(cached, 0)))
    return None


def text(stack: Stack, told: dict[str, Any]) -> str:
    """Write a status for people.

    Args:
        stack: whose.
        told: what :func:`status_verb` gathered.
    """
    verdict = f"ready, {told['url']}" if told["ready"] else f"NOT ready: {told['problem']}"
    lines = [f"{stack.name} ({stack.env}): {verdict}", f"  release      {release_line(told['release'])}"]
    if told["maintenance"]:
        lines.append(f"  maintenance  {maintenance.line(told['maintenance'])}")
    lines += [_container_line(row) for row in told["containers"]]
    lines += [f"  {service:<12} no container" for service in told["missing"]]
    lines += host_lines(stack, told)
    if not told["ready"]:
        lines.append(f"Next: {stack.make('logs' if told['containers'] else 'deploy')}")
    return "\n".join(lines)


def release_line(release: Optional[dict[str, Any]]) -> str:
    """Write which release serves, how old it is and who deployed it."""
    if release is None:
        return "the working tree as it is"
    parts = [release["id"]]
    if release["age"] is not None:
        parts.append(f"{duration(release['age'])} ago")
    if release["who"]:
        parts.append(f"by {release['who']}")
    return ", ".join(parts)


def host_lines(stack: Stack, told: dict[str, Any]) -> list[str]:
    """Write what is the host's rather than a release's: certificates, last backup, disks.

    Args:
        stack: whose.
        told: has ``certificates``, ``backup`` and ``disks``.
    """
    lines = []
    for one in told["certificates"]:
        days = one["days_left"]
        if days < 0:
            left = f"EXPIRED {-days} days ago"
        else:
            left = f"{days} days left" + (" (soon over)" if days < FEW_DAYS else "")
        lines.append(f"  certificate  {one['name']}: {left}")
    if stack.has_edge and not told["certificates"]:
        lines.append("  certificate  none that can be read")
    lines.append("  backup       " + (str(told["backup"]["text"]) if told["backup"] else "none is known"))
    if "restored" in told:
        lines.append(f"  restored     {_restored_line(told['restored'])}")
    if told.get("offsite"):
        lines.append(f"  off-site     {backup_offsite.line(told['offsite'])}")
    lines += [f"  {line}" for line in backup_schedule.lines(told.get("schedule"))]
    for one in told["disks"]:
        low = f"    LOW: a deploy wants {stack.limits.min_free_bytes / GIB:.1f} GiB" if one["low"] else ""
        sizes = f"{one['free'] / GIB:.1f} of {one['total'] / GIB:.1f} GiB free"
        lines.append(f"  disk         {one['path']}: {sizes}{low}")
    return lines


def _restored_line(told: Optional[dict[str, Any]]) -> str:
    if told is None:
        return "no backup was ever restored"
    return f"{told['id']}, {duration(told['age'])} old, for a test {duration(told['since'])} ago"


def _row(item: Container) -> dict[str, Any]:
    return {
        "service": item.service,
        "container": item.name,
        "state": item.state,
        "health": item.health,
        "started": item.started,
        "restarts": item.restarts,
        "memory": memory(item),
        "image": item.reference,
    }


def _container_line(row: dict[str, Any]) -> str:
    used = "-" if row["memory"] is None else f"{row['memory'] / MIB:.0f} MiB"
    restarts = f"{row['restarts']} restart{'' if row['restarts'] == 1 else 's'}"
    since = f"since {row['started'][:19]}"
    return (
        f"  {row['service']:<12} {row['state']:<11} {row['health'] or '-':<10} {since}  {restarts:<11} {used:>9}  "
        f"{row['image']}"
    )


def _age(finished: str) -> Optional[float]:
    try:
        return max(0.0, time.time() - timegm(time.strptime(finished, "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return None
