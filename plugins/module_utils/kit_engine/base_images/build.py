"""Make base images from Debian's and PyPI's packages: for hosts that reach no registry."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Optional

from kit_engine import image_build, machine
from kit_engine.base_images import recipe
from kit_engine.command import demand, run
from kit_engine.errors import EngineError

# Measured on 2 cores: 12 s for the root file system. A slow mirror may take ten times that.
LIMIT_SECONDS = 900.0
# Another apt-get may be at work, such as the machine's own unattended upgrades.
LOCK_SECONDS = 300
# Records where packages came from, and is of no use in an image that installs none.
_CLEAN = 'rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* "$1"/var/log/apt "$1"/var/log/dpkg.log'
# An image keeps neither package files nor lists.
_APT_CONF = (
    'APT::Install-Recommends "false"; Acquire::Languages "none"; Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";'
)
_DPKG_OPTIONS = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)

Say = Callable[[str], None]


def build(name: str, extra_ca_bundle: str, say: Say) -> str:
    """Make one image; what it is built on must be there.

    Args:
        name: of the image, or ``debian``.
        extra_ca_bundle: certificates for downloads, given to the build as a secret; empty for none.
        say: takes progress lines.

    Returns:
        The image's reference.

    Raises:
        EngineError: a program is missing, failed or took too long; the message holds its last lines.
    """
    ref = recipe.packages_ref(name)
    started = time.monotonic()
    say(f"building {ref} …")
    if name == "debian":
        _debian(ref, say)
    else:
        _image(name, ref, extra_ca_bundle)
    say(f"built {ref} in {time.monotonic() - started:.0f} s")
    return ref


def _sources() -> list[machine.Source]:
    found = machine.sources_for(recipe.SUITE, machine.code_name(), machine.machine_sources())
    if not found:
        raise EngineError(
            "base_images",
            "This machine has no Debian package source, so base images cannot be built from packages here.",
            "use a registry: base_images_source: registry (and base_images_registry for a mirror of yours)",
        )
    return found


def _debian(ref: str, say: Say) -> None:
    sources = _sources()
    need_mmdebstrap(say)
    with tempfile.TemporaryDirectory(prefix="kit-base-", dir=work_folder()) as folder:
        listed = Path(folder, f"{recipe.SUITE}.sources")
        listed.write_text(machine.render_sources(sources), encoding="utf-8")
        # Each name is taken once: mmdebstrap is told of the keyrings of all sources.
        keyrings = dict.fromkeys([machine.DEFAULT_KEYRING, *(source.signed_by for source in sources)])
        words = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(recipe.DEBIAN_PACKAGES)}"]
        words += [f"--aptopt={line}" for line in machine.apt_settings(run(["apt-config", "dump"]).out)]
        words += [f"--dpkgopt={line}" for line in _DPKG_OPTIONS]
        words += [f"--keyring={path}" for path in keyrings if Path(path).is_file()]
        words += [f"--customize-hook=echo '{_APT_CONF}' > \"$1\"/etc/apt/apt.conf.d/90lean"]
        words += [f"--customize-hook={_CLEAN}"]
        archive = Path(folder, "root.tar")
        demand(
            [*words, recipe.SUITE, str(archive), str(listed)],
            code="base_images",
            remedy="check that this machine's apt reaches its mirror: apt-get update",
            limit=LIMIT_SECONDS,
            env={"TMPDIR": folder},
        )
        demand(["docker", "import", str(archive), ref], code="base_images", remedy="docker info", limit=LIMIT_SECONDS)


def need_mmdebstrap(say: Say) -> None:
    """Install mmdebstrap where it is missing.

    Args:
        say: takes progress lines.

    Raises:
        EngineError: it cannot be installed, or only root could.
    """
    if shutil.which("mmdebstrap"):
        return
    if os.geteuid() != 0:
        raise EngineError("base_images", "mmdebstrap is not installed.", "sudo apt-get install mmdebstrap")
    say("installing mmdebstrap (it is missing) …")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", "mmdebstrap"]):
        demand(
            ["apt-get", "--quiet=2", "-o", f"DPkg::Lock::Timeout={LOCK_SECONDS}", *words],
            code="base_images",
            remedy="apt-get install mmdebstrap",
            limit=LIMIT_SECONDS,
            env=quiet,
        )


def work_folder() -> Optional[str]:
    """Folder for mmdebstrap's temporary files, below which it runs programs; None: the usual one."""
    noexec = os.statvfs(tempfile.gettempdir()).f_flag & os.ST_NOEXEC
    return "/var/tmp" if noexec else None  # noqa: S108 - made there by tempfile, with a name of its own


def _image(name: str, ref: str, extra_ca_bundle: str) -> None:
    with tempfile.TemporaryDirectory(prefix="kit-base-") as folder:
        recipe.write_context(name, Path(folder))
        arguments = {other.upper(): recipe.packages_ref(other) for other in recipe.DEPENDS[name]}
        image_build.build(ref, Path(folder), code="base_images", arguments=arguments, extra_ca_bundle=extra_ca_bundle)
