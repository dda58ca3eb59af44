"""What the app's image is made of: its build context as one archive, its build arguments, and the name they give it."""

from __future__ import annotations

import hashlib
import io
import shlex
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kit_control import source_version
from kit_control.dockerignore import exclude_paths
from kit_control.errors import KitError
from kit_control.manifest import Manifest, load
from kit_control.settings import APP_UID, IMAGE_STATIC

TARGETS = ("local", "dev", "release")


@dataclass(frozen=True)
class Plan:
    """An image to be there.

    Attributes:
        ref: ``<name>:<target>-<12 hexadecimal digits of its content's hash>``.
        target: stage of the Dockerfile: ``local`` (development packages, source mounted), ``dev`` (the release's
            packages, source mounted) or ``release``.
        arguments: build arguments.
        labels: of the OCI image specification; no part of the content.
        context: the build context, a tar archive.
    """

    ref: str
    target: str
    arguments: dict[str, str]
    labels: dict[str, str]
    context: bytes


def plan(project: Manifest, root: Path, target: str, base: Mapping[str, Any]) -> Plan:
    """Gather what an image is made of.

    Args:
        project: the manifest.
        root: the kit's folder, with Dockerfile, .dockerignore, image/ and requirements/uv.txt.
        target: one of :data:`TARGETS`.
        base: facts of the Python base image: ``ref``, which stands for its content on every machine, and ``id``.

    Returns:
        The plan; nothing was built.

    Raises:
        KitError: a file that the manifest names is missing.
    """
    files, arguments, version = _content(project, root, target, str(base["ref"]))
    return Plan(
        ref=f"{project.name}:{version}",
        target=target,
        arguments=arguments,
        labels=_labels(project, version, base),
        context=_archive(files),
    )


@cache
def name_of(manifest: Path, root: Path, target: str, base: str) -> str:
    """Name an image; asked for again and again while Ansible runs, and answered from the files as they were first.

    Args:
        manifest: of the project.
        root: the kit's folder, as of :func:`plan`.
        target: one of :data:`TARGETS`.
        base: reference of the Python base image.

    Raises:
        KitError: a file that the manifest names is missing.
    """
    project = load(manifest)
    return f"{project.name}:{_content(project, root, target, base)[2]}"


def _content(project: Manifest, root: Path, target: str, base: str) -> tuple[dict[str, _Entry], dict[str, str], str]:
    """The files and arguments that an image is made of, and the tag that they give it."""
    files = _kit_files(project, root, target)
    if target == "release":
        files.update(_project_files(project.source, root / ".dockerignore", project.data["writable_paths"]))
    packages = project.data["system_packages"]
    arguments = {
        "PYTHON_IMAGE": base,
        "PYTHON_VERSION": project.data["python"]["version"],
        "BUILD_PACKAGES": " ".join(packages["build"]),
        "RUN_PACKAGES": " ".join(packages["run"]),
        "APP_UID": str(APP_UID),
        "IMAGE_STATIC": IMAGE_STATIC,
    }
    return files, arguments, f"{target}-{_content_hash(files, arguments)[:12]}"


@dataclass(frozen=True)
class _Entry:
    content: bytes
    executable: bool = False


def project_files(project: Manifest, root: Path) -> dict[str, tuple[bytes, int]]:
    """Read the files of a project as an image would hold them.

    Args:
        project: the manifest.
        root: the kit's folder, with .dockerignore.

    Returns:
        Content and mode by path below the project's source.
    """
    files = _project_files(project.source, root / ".dockerignore", project.data["writable_paths"])
    return {
        name.removeprefix("app/"): (entry.content, 0o755 if entry.executable else 0o644)
        for name, entry in files.items()
    }


def _kit_files(project: Manifest, root: Path, target: str) -> dict[str, _Entry]:
    python = project.data["python"]
    release = python["requirements"]
    lock = {"local": ("local", python.get("dev_requirements", release))}.get(target, ("release", release))
    own = ("Dockerfile", "requirements/uv.txt")
    paths = {name: root / name for name in own}
    paths.update({f"kit/{path.name}": path for path in sorted((root / "image").glob("*.py"))})
    files = {name: _Entry(path.read_bytes()) for name, path in paths.items()}
    files[f"requirements/{lock[0]}.txt"] = _Entry(_read(project.source / lock[1], project))
    if target == "release":
        files["kit/build.sh"] = _Entry(_build_script(project.data["build"]).encode())
    return files


def _read(path: Path, project: Manifest) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KitError(
            "manifest",
            f"{path} cannot be read: {error.strerror}. {project.path} names it.",
            f"Correct python.requirements in {project.path}, or add the file",
        ) from error


def _build_script(build: Mapping[str, Any]) -> str:
    lines = ["set -eu"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(build["environment"].items())]
    lines += [shlex.join(command) for command in build["commands"]]
    return "\n".join(lines) + "\n"


def _project_files(source: Path, common: Path, writable: Iterable[str]) -> dict[str, _Entry]:
    patterns = _patterns(common) + _patterns(source / ".dockerignore") + list(writable)
    files = {}
    for name in exclude_paths(str(source), patterns):
        path = source / name
        # A link is packed as what it leads to, and only if that lies inside.
        if path.is_file() and path.resolve().is_relative_to(source.resolve()):
            files[f"app/{name}"] = _Entry(path.read_bytes(), bool(path.stat().st_mode & 0o100))
    return files


def _patterns(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _content_hash(files: Mapping[str, _Entry], arguments: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(arguments.items()):
        digest.update(f"{name}={value}\n".encode())
    for name, entry in sorted(files.items()):
        digest.update(f"{name} {entry.executable} {len(entry.content)}\n".encode() + entry.content)
    return digest.hexdigest()


def _archive(files: Mapping[str, _Entry]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, entry in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size = len(entry.content)
            # Readable by everybody and writable by root alone, whatever the checkout's umask was.
            info.mode = 0o755 if entry.executable else 0o644
            archive.addfile(info, io.BytesIO(entry.content))
    return buffer.getvalue()


def _labels(project: Manifest, tag: str, base: Mapping[str, Any]) -> dict[str, str]:
    labels = {
        "org.opencontainers.image.title": project.name,
        "org.opencontainers.image.version": tag,
        "org.opencontainers.image.base.name": str(base["ref"]),
        "org.opencontainers.image.base.digest": str(base.get("id", "")),
    }
    version = source_version.version_of(project.source)
    if version.sha:
        labels["org.opencontainers.image.revision"] = version.sha + ("-modified" if version.changed else "")
        labels["org.opencontainers.image.created"] = version.committed
    return labels
