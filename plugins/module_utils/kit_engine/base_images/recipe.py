"""Which base images there are, what each is made of, and the name its content gives it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

SUITE = "trixie"
# The root file system that all share: nothing but Debian's essential packages, certificates and time zones.
DEBIAN_PACKAGES = ("ca-certificates", "tzdata")
VERSIONS = {"debian": SUITE, "python": "3.13", "postgres": "16", "redis": "8.0", "nginx": "1.26"}
# What an image is built on, nearest first.
DEPENDS = {
    "debian": (),
    "python": ("debian",),
    "postgres": ("python", "debian"),
    "redis": ("debian",),
    "nginx": ("debian",),
}
NAMES = ("python", "postgres", "redis", "nginx")
REPOSITORY = "kit-base"


def context(name: str) -> dict[str, bytes]:
    """Read the build context of an image.

    Args:
        name: one of :data:`NAMES`.

    Returns:
        Content by file name.
    """
    folder = resources.files("kit_engine.base_images") / "contexts" / name
    return {entry.name: entry.read_bytes() for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)}


def content_hash(name: str) -> str:
    """Hash everything that decides what an image holds.

    Args:
        name: of the image, or ``debian``.

    Returns:
        SHA-256 in hexadecimal.
    """
    digest = hashlib.sha256()
    digest.update(f"{name} {VERSIONS[name]} ".encode())
    if name == "debian":
        digest.update(" ".join(DEBIAN_PACKAGES).encode())
    else:
        for file, content in context(name).items():
            digest.update(f"{file} {len(content)}\n".encode() + content)
    for other in DEPENDS[name]:
        digest.update(content_hash(other).encode())
    return digest.hexdigest()


def packages_ref(name: str) -> str:
    """Name the package-built image by its content: ``kit-base/postgres:16-<12 hexadecimal digits>``."""
    return f"{REPOSITORY}/{name}:{VERSIONS[name]}-{content_hash(name)[:12]}"


def build_order(wanted: Iterable[str]) -> list[str]:
    """List the wanted images and what they are built on, each after all it needs."""
    order: list[str] = []
    for name in wanted:
        for needed in (*reversed(DEPENDS[name]), name):
            if needed not in order:
                order.append(needed)
    return order


def write_context(name: str, folder: Path) -> None:
    """Lay an image's build context out in a folder."""
    for file, content in context(name).items():
        target = folder / file
        target.write_bytes(content)
        target.chmod(0o755 if file.endswith(".sh") else 0o644)
