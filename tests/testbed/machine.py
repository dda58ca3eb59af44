"""What a host takes over from this machine: apt sources and settings, certificates, pip's index.

A fresh host of the bed stands for a company machine: its administrator set the package mirror and installed
the company's certificate. All of it is read from the machine (kit_engine.machine), nothing of it is written down here.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from kit_engine import machine

from testbed.errors import TestbedError


@dataclass(frozen=True)
class Inherited:
    """All that a host image takes over from this machine.

    Attributes:
        sources: text of the .sources file.
        keyrings: paths of keyrings beyond Debian's own.
        apt: lines of apt.conf.
        certificates: added certificates as PEM.
        pip: settings for /etc/pip.conf.
    """

    sources: str
    keyrings: tuple[str, ...]
    apt: tuple[str, ...]
    certificates: tuple[str, ...]
    pip: tuple[tuple[str, str], ...]


def inherited(distro: str) -> Inherited:
    """Read this machine.

    Args:
        distro: code name of the host to make.

    Returns:
        What the image takes over.

    Raises:
        TestbedError: the machine has no Debian sources to start from.
    """
    mirror = os.environ.get("TESTBED_DEBIAN_MIRROR", "")
    if mirror:
        sources = [machine.Source((mirror,), (distro, f"{distro}-updates"), ("main",), machine.DEFAULT_KEYRING)]
    else:
        sources = machine.sources_for(distro, machine.code_name(), machine.machine_sources())
    if not sources:
        raise TestbedError(
            "No Debian source in /etc/apt/sources.list and /etc/apt/sources.list.d of this machine; a host "
            "image is made from the machine's own mirror.",
            "TESTBED_DEBIAN_MIRROR=<address of a Debian mirror> make testbed-up",
        )
    if not Path(machine.DEFAULT_KEYRING).is_file():
        raise TestbedError(f"{machine.DEFAULT_KEYRING} is missing.", "apt-get install debian-archive-keyring")
    bundle = machine.SYSTEM_BUNDLE.read_text() if machine.SYSTEM_BUNDLE.is_file() else ""
    stock = [path.read_text() for path in sorted(machine.STOCK_CERTIFICATES.glob("*.crt"))]
    pip_conf = Path("/etc/pip.conf")
    return Inherited(
        sources=machine.render_sources(sources),
        keyrings=tuple(sorted({s.signed_by for s in sources} - {machine.DEFAULT_KEYRING})),
        apt=tuple(machine.apt_settings(_output("apt-config", "dump"))),
        certificates=tuple(machine.added_certificates(bundle, stock)) if stock else (),
        pip=tuple(machine.pip_settings(pip_conf.read_text()).items()) if pip_conf.is_file() else (),
    )


def _output(*words: str) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise TestbedError(
            f"`{words[0]}` is not on this machine; host images are made from Debian's packages.",
            "use a Debian or Ubuntu machine as test bed",
        ) from None
