"""Filters of the wiring in playbooks/group_vars; the work is done in module_utils/kit_control."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from kit_control import app_image, certificates, environment, image_names, manifest, services, smoke, source_version
from kit_control.errors import KitError
from kit_engine.base_images import record as base_images_record
from kit_engine.base_images import resolve
from kit_engine.errors import EngineError


def kit_environment(inventory_sources: Sequence[str]) -> str:
    """Name the environment that the first inventory stands for."""
    try:
        return environment.environment_name(inventory_sources)
    except KitError as error:
        raise AnsibleFilterError(str(error)) from error


def kit_manifest(path: str) -> dict[str, Any]:
    """Read the project's manifest, with its defaults filled in and `source_path` as an absolute folder."""
    try:
        project = manifest.load(Path(path))
    except KitError as error:
        raise AnsibleFilterError(str(error)) from error
    return {**project.data, "source_path": str(project.source)}


def kit_at_version(path: str, ref: str, exports: str) -> str:
    """Give the path of the manifest in a version of the project; an export is made on first use."""
    try:
        return str(source_version.manifest_at(Path(path), ref, Path(exports)))
    except KitError as error:
        raise AnsibleFilterError(str(error)) from error


def kit_registry_refs(tags: Mapping[str, str], registry: str) -> dict[str, str]:
    """Put the registry's host and path before each official name."""
    return {name: f"{registry.rstrip('/')}/{tag}" for name, tag in tags.items()}


def kit_planned_bases(record: str, registry_refs: Mapping[str, str], source: str) -> dict[str, dict[str, Any]]:
    """Facts of the base images that an environment would run, without asking a host.

    Args:
        record: path of the environment's record, which may be absent or on another machine.
        registry_refs: references in the registry by name.
        source: ``auto``, ``registry`` or ``packages``.
    """
    try:
        return resolve.planned(base_images_record.read_record(Path(record)), registry_refs, source)
    except EngineError as error:
        raise AnsibleFilterError(str(error)) from error


def kit_planned_app(path: str, root: str, target: str, base: Mapping[str, Any]) -> dict[str, str]:
    """Name the app's image as role app_image would, as far as that is known before the base image is there."""
    try:
        return {"ref": app_image.name_of(Path(path), Path(root), target, str(base["ref"]))}
    except KitError as error:
        raise AnsibleFilterError(str(error)) from error


def kit_certificate_stands(there: Mapping[str, Any] | None, domains: Sequence[str], warn_days: int) -> bool:
    """Tell whether a certificate that a host told of in preflight is served, fits, and is worth no word.

    Args:
        there: what it told; nothing where it was not asked.
        domains: of the site.
        warn_days: fewer days than these are warned of.
    """
    return bool(there) and certificates.stands(there or {}, domains, warn_days)


def kit_image_refs(bases: Mapping[str, Mapping[str, Any]], app: Mapping[str, Any], delivery: str) -> dict[str, str]:
    """Collect the reference of each image on the host from what the roles base_images and app_image told."""
    return image_names.references(bases, app, delivery)


def kit_delivered_images(
    refs: Mapping[str, str], bases: Mapping[str, Mapping[str, Any]], app: Mapping[str, Any], names: Iterable[str]
) -> list[dict[str, str]]:
    """Pair the references of images on the host with those on the machine that has them.

    Args:
        refs: on the host, by name.
        bases: facts of the base images, by name.
        app: facts of the app's image.
        names: which of them the stack runs.
    """
    here = {**bases, "app": app}
    # Before the roles ran, the inputs are judged without knowing any.
    return [{"ref": refs[name], "source": str(here[name]["ref"])} for name in names if name in refs]


def kit_images_stand(bases: Mapping[str, Mapping[str, Any]], refs: Iterable[str], standing: Mapping[str, str]) -> bool:
    """Tell whether a host has every image that its stack runs, so that none has to be made or brought.

    Args:
        bases: facts of the base images, by name; of one that was never brought here only its reference is known.
        refs: references of the images that the stack runs.
        standing: id of each image on the host by reference, as it told in preflight; empty where it is lacking.
    """
    return image_names.stand(bases, list(refs), standing)


def kit_smoke_passed(folder: str) -> bool:
    """Tell whether nothing failed when the smoke checks of an environment ran last, by its folder of results."""
    return smoke.last_was_good(Path(folder))


def kit_batches(hosts: Sequence[str], size: str | int) -> list[list[str]]:
    """Divide hosts into batches.

    Args:
        hosts: their names.
        size: hosts in each, as a number or in percent of all, as Ansible's ``serial``.
    """
    text = str(size).strip()
    number = text.removesuffix("%")
    if not number.isdecimal() or int(number) == 0:
        raise AnsibleFilterError(
            f"release_serial is {text!r}, and stands for no number of hosts.\n"
            "Next: set it to a number such as 2, or to a share such as 25%"
        )
    each = max(1, len(hosts) * int(number) // 100) if text.endswith("%") else int(number)
    return [list(hosts[first : first + each]) for first in range(0, len(hosts), each)]


def kit_database_volume(name: str, env: str) -> str:
    """Name the database's volume on the host."""
    return services.database_volume(services.project_name(name, env), env)


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Offer the filters by name."""
        return {
            "kit_at_version": kit_at_version,
            "kit_batches": kit_batches,
            "kit_certificate_stands": kit_certificate_stands,
            "kit_database_volume": kit_database_volume,
            "kit_delivered_images": kit_delivered_images,
            "kit_environment": kit_environment,
            "kit_image_refs": kit_image_refs,
            "kit_images_stand": kit_images_stand,
            "kit_manifest": kit_manifest,
            "kit_planned_app": kit_planned_app,
            "kit_planned_bases": kit_planned_bases,
            "kit_registry_refs": kit_registry_refs,
            "kit_smoke_passed": kit_smoke_passed,
        }
