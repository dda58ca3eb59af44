"""What a deploy would do here: compared with what runs, nothing changed, nothing left behind, no secret told."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from kit_engine import (
    bundle,
    current,
    database,
    image_migrations,
    plan_files,
    preflight_verb,
    releases,
    rollout,
    status,
)
from kit_engine import stack as stacks
from kit_engine.docker import Container, Docker, image_id
from kit_engine.errors import EngineError
from kit_engine.image_migrations import Migration
from kit_engine.plan_files import Difference
from kit_engine.stack import Stack
from kit_engine.synced_source import FOLDER as SOURCE

# In the order of the verdict; the others are not worth a word there.
_VERBS = {"create": "create", "recreate": "recreate", "start": "start", "restart": "restart", "reload": "reload"}
_NAMED = 5


@dataclass(frozen=True)
class Request:
    """What a control node asks.

    Attributes:
        configuration: hash that the bundle on standard input must have.
        in_place: the stack runs from its deploy root, as local does.
        secrets: names of the variables whose values are never shown.
        environment: what the project's settings need to be imported, without any secret.
        scratch: folders that the settings may write to.
        migrations: of the new image, each with those that it replaces; None: ask the image on this host.
        reason: why the control node does not know them.
    """

    configuration: str
    in_place: bool
    secrets: Sequence[str]
    environment: Mapping[str, str]
    scratch: Sequence[str]
    migrations: Optional[Sequence[tuple[str, Sequence[str]]]] = None
    reason: str = ""


def plan_verb(arguments: argparse.Namespace) -> None:
    """Compare the bundle on standard input with what is here."""
    root: Path = arguments.root.resolve()
    asked = Request(**json.loads(arguments.request))
    with tempfile.TemporaryDirectory(prefix="kit-plan-") as folder:
        bundle.unpack(sys.stdin.buffer, Path(folder))
        new = Path(folder, bundle.BUNDLE)
        if bundle.hash_of(new) != asked.configuration:
            raise EngineError("bundle", "The configuration did not arrive whole.", "repeat the command")
        told = gather(root, new, asked)
    arguments.report.done({"changed": False, "plan": told}, "\n".join(told["lines"]))


def image_migrations_verb(arguments: argparse.Namespace) -> None:
    """List the migrations of an image on this machine; the request's fields are those of of_image."""
    asked = json.loads(arguments.request)
    source = asked.pop("source", "")
    told: dict[str, Any] = {"migrations": None, "reason": ""}
    try:
        there = image_migrations.of_image(**asked, source=Path(source) if source else None)
        told["migrations"] = [[one.name, list(one.replaces)] for one in there]
    except EngineError as error:
        told["reason"] = error.problem
    arguments.report.done({"changed": False, **told}, "")


def gather(root: Path, folder: Path, asked: Request) -> dict[str, Any]:
    """Compare.

    Args:
        root: the deploy root; need not exist.
        folder: the new bundle.
        asked: the rest of the request.

    Returns:
        The plan; its ``lines`` are for people, the last of them is the verdict.

    Raises:
        EngineError: the engine does not answer, or Compose cannot read a file.
    """
    docker = Docker(stacks.load(root, folder))
    stack = docker.stack
    if asked.in_place:
        docker.env["KIT_RELEASE"] = ""
    old = _old(root, asked.in_place)
    containers = docker.containers()
    here = plan_files.files_of(old.stack.bundle) if old else {}
    files = plan_files.differences(here, plan_files.files_of(folder), asked.secrets)
    serves = old is not None and _serves(old, asked.in_place)
    # The same release in another folder: its id is part of what the containers see, and no difference.
    ours = docker if files or old is None else old
    services = _services(ours, containers, files)
    pending, unknown = _pending(docker, old, asked)
    told: dict[str, Any] = {
        "name": stack.name,
        "env": stack.env,
        "release": status.release_of(old.stack) if old else None,
        "first": old is None,
        "serves": serves,
        "files": [asdict(one) for one in files],
        "images": _images(docker, old, containers),
        "migrations": {"pending": pending, "unknown": unknown},
        "containers": services,
        "restarts": sorted(rollout.restarts(docker, containers)) if old and old.stack.rolls else [],
        "certificates": status.certificates(stack),
        "backup": status.last_backup(stack),
        "disks": status.disks(stack),
    }
    todo = _todo(told)
    told["changes"] = bool(todo)
    told["verdict"] = verdict(told, todo)
    told["lines"] = [*_lines(stack, told), told["verdict"]]
    return told


def verdict(told: Mapping[str, Any], todo: Sequence[str]) -> str:
    """Say in one sentence what a deploy would do.

    Args:
        told: the plan.
        todo: its parts, as words after "would".
    """
    env = told["env"]
    if not todo:
        what = f"release {told['release']['id']} serves" if told["release"] else "it is up to date"
        return f"nothing to do: {what}, and a deploy to {env} would change nothing" + _but(told)
    return f"a deploy to {env} would {_joined(todo)}" + _but(told)


def _but(told: Mapping[str, Any]) -> str:
    gap = f"; it stops {', '.join(told['restarts'])} for some seconds and wants " if told["restarts"] else ""
    word = f"ALLOW_RESTART={','.join(told['restarts'])}" if gap else ""
    return gap + word + (" (migrations are not known)" if told["migrations"]["unknown"] else "")


def _todo(told: Mapping[str, Any]) -> list[str]:
    todo = []
    if told["first"]:
        todo.append("be the first one here")
    elif told["files"]:
        names = [one["path"] for one in told["files"] if not one["path"].startswith(f"{SOURCE}/")]
        sources = len(told["files"]) - len(names)
        todo += [f"change {_few(names)}"] if names else []
        todo += [f"bring {sources} other source file{_s(sources)}"] if sources else []
    pending = told["migrations"]["pending"]
    if pending:
        todo.append(f"apply {len(pending)} migration{_s(len(pending))}")
    for word, text in _VERBS.items():
        names = [service for service, what in told["containers"].items() if what == word]
        todo += [f"{text} {', '.join(names)}"] if names else []
    removed = [service for service, what in told["containers"].items() if what == "remove"]
    todo += [f"remove {', '.join(removed)}"] if removed else []
    if not todo and not told["serves"]:
        todo.append("bring the same release up again, since it does not serve as it should")
    return todo


def _old(root: Path, in_place: bool) -> Optional[Docker]:
    if in_place:
        return Docker(stacks.load(root, root)) if (root / stacks.FILE_NAME).is_file() else None
    return Docker(stacks.load(root)) if releases.current(root) else None


def _serves(old: Docker, in_place: bool) -> bool:
    record = releases.read(old.stack.root, old.stack.release)
    content = "" if in_place else bundle.hash_of(old.stack.bundle)
    return (in_place or (record is not None and record.state == "good")) and preflight_verb.serves(old, content)


def _services(docker: Docker, containers: Sequence[Container], files: Sequence[Difference]) -> dict[str, str]:
    """What happens to each service's containers, and to those of services that are no more."""
    stack = docker.stack
    told = current.planned(docker, containers)
    if any(one.path.startswith(f"{SOURCE}/") for one in files):
        # As release.reload does it: web without a gap.
        kept = [service for service in stack.app_services if told[service] == "keep"]
        told.update({service: "reload" if service == stack.web else "restart" for service in kept})
    if told.get("nginx") == "keep" and any(one.path.startswith("nginx/") for one in files):
        told["nginx"] = "reload"
    told.update({item.service: "remove" for item in containers if item.service not in stack.services})
    return told


def _images(docker: Docker, old: Optional[Docker], containers: Sequence[Container]) -> list[dict[str, str]]:
    """The image of each service as it runs, or would by the old release, and as it would be."""
    wanted = {name: str(entry["image"]) for name, entry in docker.configuration["services"].items()}
    before = {name: str(entry["image"]) for name, entry in (old.configuration["services"] if old else {}).items()}
    before.update({item.service: item.reference for item in containers})
    return [
        {"service": service, "old": before.get(service, ""), "new": wanted[service]}
        for service in docker.stack.services
        if before.get(service) != wanted[service]
    ]


def _pending(docker: Docker, old: Optional[Docker], asked: Request) -> tuple[list[str], str]:
    """The migrations that would be applied, or why nobody knows."""
    try:
        there = _migrations_of(docker, asked)
        applied = _applied(docker, old)
    except EngineError as error:
        return [], error.problem.splitlines()[0]
    return image_migrations.pending(there, applied), ""


def _migrations_of(docker: Docker, asked: Request) -> list[Migration]:
    if asked.migrations is not None:
        return [Migration(name, tuple(replaces)) for name, replaces in asked.migrations]
    stack = docker.stack
    image = str(docker.configuration["services"][stack.web]["image"])
    if asked.reason and not image_id(image):
        raise EngineError("image", asked.reason, stack.make("deploy"))
    mounted = stack.bundle / SOURCE
    source = stack.source.path if stack.source else mounted if mounted.is_dir() else None
    return image_migrations.of_image(image, stack.manage, asked.environment, scratch=asked.scratch, source=source)


def _applied(docker: Docker, old: Optional[Docker]) -> list[str]:
    stack = docker.stack
    if stack.database is None:
        raise EngineError("database", "the external database is not asked", stack.make("deploy"))
    if old is None and not docker.has_volume(stack.database.volume):
        return []
    if not any(item.running for item in docker.of(stack.database.service)):
        raise EngineError("stopped", "the database is not running", stack.make("deploy"))
    return database.migrations(docker)


def _lines(stack: Stack, told: Mapping[str, Any]) -> list[str]:
    release = "nothing is deployed here yet" if told["first"] else f"now {status.release_line(told['release'])}"
    state = "" if told["first"] or told["serves"] else "; it does NOT serve as it was brought up"
    lines = [f"{stack.name} ({stack.env}): {release}{state}", "  configuration"]
    sources = [one for one in told["files"] if one["path"].startswith(f"{SOURCE}/")]
    for one in told["files"]:
        if one not in sources:
            lines.append(f"    {one['path']}: {one['change']}")
            lines += [f"      {line}" for line in one["lines"]]
    if sources:
        lines.append(f"    {SOURCE}: {_few([one['path'].partition('/')[2] for one in sources])}")
    if not told["files"]:
        lines.append("    same")
    lines.append("  images" if told["images"] else "  images       same")
    lines += [f"    {one['service']}: {one['old'] or 'none'} -> {one['new']}" for one in told["images"]]
    migrations = told["migrations"]
    if migrations["unknown"]:
        lines.append(f"  migrations   not known: {migrations['unknown']}")
    else:
        lines.append("  migrations" if migrations["pending"] else "  migrations   none pending")
        lines += [f"    {name}" for name in migrations["pending"]]
    lines.append("  containers")
    lines += [f"    {service:<12} {what}" for service, what in told["containers"].items()]
    return lines + status.host_lines(stack, dict(told))


def _few(names: Sequence[str]) -> str:
    left = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {left} more" if left > 0 else "")


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _s(count: int) -> str:
    return "" if count == 1 else "s"
