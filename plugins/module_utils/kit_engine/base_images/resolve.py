"""Decide where base images come from, bring the ones that are lacking, and keep a record of what they are.

``auto`` decides once per environment; later runs keep the record, so that nothing changes under a running database.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit_engine import disk, machine
from kit_engine.base_images import recipe
from kit_engine.base_images.build import Say, build
from kit_engine.base_images.record import NOTHING, read_record
from kit_engine.command import demand, run, tail
from kit_engine.docker import PROJECT_LABEL, image_id
from kit_engine.errors import EngineError

PULL_SECONDS = 600.0
# What must stay the same under an existing volume: another library sorts text differently, another user owns the files.
DATABASE_FACTS = ("source", "uid", "libc")
# Printed by every image: the C library's version, and the number of the user that the server runs as.
_FACTS = (
    "ldd --version 2>&1 | head -n1; for name in postgres redis nginx root; do id -u $name 2>/dev/null && break; done"
)


@dataclass(frozen=True)
class Request:
    """What an environment asks for.

    Attributes:
        wanted: names of images.
        source: ``auto``, ``registry`` or ``packages``.
        registry_refs: reference in the registry by name.
        record: file that keeps what was decided.
        extra_ca_bundle: certificates for builds; ``machine`` means the machine's own where it is not the stock one.
        database_by_choice: ``packages`` for the database only where it was chosen by name, never by fallback.
        database_volume: the database's volume; empty where there is none.
        check_only: say what is lacking and bring nothing.
        min_free_bytes: what the disks must have free before anything is brought.
    """

    wanted: Sequence[str]
    source: str
    registry_refs: Mapping[str, str]
    record: Path
    extra_ca_bundle: str = "machine"
    database_by_choice: bool = False
    database_volume: str = ""
    check_only: bool = False
    min_free_bytes: int = 0


def ensure(request: Request, say: Say) -> dict[str, Any]:
    """Bring what is lacking and keep the record.

    Args:
        request: what is asked for.
        say: takes progress lines.

    Returns:
        ``changed``, ``source``, ``images`` (facts by name) and ``missing`` (names, where only checking).

    Raises:
        EngineError: nothing can be brought, or the database image would change under an existing volume.
    """
    record = read_record(request.record)
    source = kept_source(record, request.source)
    kept = {name: record["images"][name] for name in request.wanted if name in record["images"]}
    ready = {name: facts for name, facts in kept.items() if _usable(name, facts, source, request)}
    if len(ready) == len(request.wanted) and record["source"] == source:
        return {"changed": False, "source": source, "images": ready, "missing": []}
    missing = [name for name in request.wanted if name not in ready]
    if request.check_only:
        images = {**planned(NOTHING, request.registry_refs, source or request.source), **ready}
        return {
            "changed": True,
            "source": source or request.source,
            "images": {name: images[name] for name in request.wanted},
            "missing": missing,
        }
    if "postgres" in missing and "postgres" not in record["images"]:
        refuse_unknown_database(request)
    disk.demand(request.record.parent.parent, request.min_free_bytes)
    images, source = _bring(missing, source, request, say)
    if "postgres" in images and "postgres" in record["images"]:
        refuse_other_database(record["images"]["postgres"], images["postgres"], request.database_volume)
    everything = {**record["images"], **images}
    _write_record(request.record, {"schema": 1, "source": source, "images": everything})
    return {"changed": True, "source": source, "images": {n: everything[n] for n in request.wanted}, "missing": []}


def kept_source(record: Mapping[str, Any], wanted: str) -> str:
    """Choose the source: what the environment names, or with ``auto`` what was decided before (empty: nothing yet)."""
    return str(record["source"]) if wanted == "auto" else wanted


def refuse_unknown_database(request: Request) -> None:
    """Refuse to choose a database image for a volume whose own is not on record.

    Args:
        request: what is asked for.

    Raises:
        EngineError: the volume exists, and the source is to be chosen by the kit.
    """
    if request.source != "auto" or not _exists(request.database_volume):
        return
    raise EngineError(
        "base_images",
        f"There is a database volume {request.database_volume}, but {request.record}, which said what image wrote it, "
        "is gone: another image could sort text differently, and indexes would be silently wrong. Nothing was changed.",
        "restore the record, or name the source that was used: base_images_source: registry (or packages); or, if the "
        f"data may go: {_removal(request.database_volume)}",
    )


def _removal(volume: str) -> str:
    """The command that removes a volume, with the stack that holds it where there is one."""
    label = f'{{{{index .Labels "{PROJECT_LABEL}"}}}}'
    project = run(["docker", "volume", "inspect", "--format", label, volume]).out.strip()
    return f"docker compose --project-name {project} down --volumes" if project else f"docker volume rm {volume}"


def _exists(volume: str) -> bool:
    return bool(volume) and run(["docker", "volume", "inspect", volume]).code == 0


def refuse_other_database(old: Mapping[str, Any], new: Mapping[str, Any], volume: str) -> None:
    """Refuse a database image that would read an existing volume differently.

    Args:
        old: facts of the image that the volume was made with.
        new: facts of the image that would take over.
        volume: name of the volume; one that does not exist can be damaged by nothing.

    Raises:
        EngineError: the images differ in source, user id or C library, and the volume exists.
    """
    different = [key for key in DATABASE_FACTS if old[key] != new[key]]
    if not different or not _exists(volume):
        return
    changes = ", ".join(f"{key} {old[key]} → {new[key]}" for key in different)
    raise EngineError(
        "base_images",
        f"The database's image would change ({changes}) under the volume {volume}: text may sort differently there, "
        "and indexes would be silently wrong. Nothing was changed.",
        f"keep the old one (base_images_source: {old['source']}), or move the data by backup and restore",
    )


def planned(record: Mapping[str, Any], registry_refs: Mapping[str, str], wanted: str) -> dict[str, dict[str, Any]]:
    """Tell which images an environment would run, without asking the engine.

    Args:
        record: the environment's record, as :func:`read_record` gives it.
        registry_refs: reference in the registry by name.
        wanted: ``auto``, ``registry`` or ``packages``.

    Returns:
        By name: the recorded facts where they still fit, else ``ref`` alone.
    """
    source = kept_source(record, wanted)
    kept = record["images"]
    return {
        name: dict(kept[name])
        if name in kept and _fits(name, kept[name], source, registry_refs)
        else {"ref": _wanted(name, source, registry_refs)}
        for name in registry_refs
    }


def _wanted(name: str, source: str, registry_refs: Mapping[str, str]) -> str:
    return recipe.packages_ref(name) if source == "packages" else registry_refs[name]


def _fits(name: str, facts: Mapping[str, Any], source: str, registry_refs: Mapping[str, str]) -> bool:
    return bool(facts["source"] == source and facts["wanted"] == _wanted(name, source, registry_refs))


def _usable(name: str, facts: Mapping[str, Any], source: str, request: Request) -> bool:
    return _fits(name, facts, source, request.registry_refs) and image_id(facts["ref"]) == facts["id"]


def _bring(missing: Sequence[str], source: str, request: Request, say: Say) -> tuple[dict[str, dict[str, Any]], str]:
    if source in ("", "registry"):
        images, problem = _pull_all(missing, request, say)
        if not problem:
            return images, "registry"
        if source == "registry":
            raise EngineError(
                "base_images",
                f"The registry cannot be used: {problem}",
                "name a mirror (base_images_registry), or base_images_source: packages",
            )
        if "postgres" in missing and request.database_by_choice:
            raise EngineError(
                "base_images",
                f"The registry cannot be used ({problem}), and the database of this environment is not built from "
                "packages unless that is chosen by name. Nothing was changed.",
                "write base_images_source: packages into the inventory, or name a mirror (base_images_registry)",
            )
        say(f"the registry cannot be used ({problem.splitlines()[0]}); building from packages")
    bundle = machine.extra_ca_bundle(request.extra_ca_bundle)
    for name in recipe.build_order(missing):
        if not image_id(recipe.packages_ref(name)):
            build(name, bundle, say)
    return {
        name: _facts(recipe.packages_ref(name), recipe.packages_ref(name), "packages") for name in missing
    }, "packages"


def _pull_all(missing: Sequence[str], request: Request, say: Say) -> tuple[dict[str, dict[str, Any]], str]:
    """Pull every missing image; returns their facts, or the first problem."""
    images: dict[str, dict[str, Any]] = {}
    for name in missing:
        ref = request.registry_refs[name]
        say(f"pulling {ref} …")
        done = run(["docker", "pull", "--quiet", ref], limit=PULL_SECONDS)
        if done.code:
            return {}, tail(done.err, 1).strip()
        digest = demand(
            ["docker", "image", "inspect", "--format", "{{index .RepoDigests 0}}", ref],
            code="base_images",
            remedy="docker info",
        ).out.strip()
        images[name] = _facts(digest, ref, "registry")
    return images, ""


def _facts(ref: str, wanted: str, source: str) -> dict[str, Any]:
    told = demand(
        ["docker", "run", "--rm", "--network=none", "--entrypoint=sh", ref, "-c", _FACTS],
        code="base_images",
        remedy=f"docker run --rm {ref} true",
        limit=60.0,
    ).out.splitlines()
    return {
        "ref": ref,
        "wanted": wanted,
        "id": image_id(ref),
        "source": source,
        "uid": int(told[-1]),
        "libc": _libc(told[0]),
    }


def _libc(line: str) -> str:
    """Name the C library by what its rules of sorting depend on: ``glibc 2.41``, or musl's whole line."""
    found = re.search(r"GLIBC.* (\d+\.\d+)$|\(GNU libc\) (\d+\.\d+)$", line.strip())
    return f"glibc {found[1] or found[2]}" if found else line.strip()


def _write_record(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)
