"""The host image: a Debian with systemd, sshd and the README's prerequisites, and nothing more.

It carries this machine's mirror and certificates, so it is for this machine only and is never pushed.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path

from kit_engine.base_images.build import need_mmdebstrap, work_folder
from kit_engine.errors import EngineError
from kit_engine.machine import DEFAULT_KEYRING

from testbed.engine import docker, lines
from testbed.errors import TestbedError
from testbed.machine import Inherited, inherited

USER = "deployer"
REPOSITORY = "kit-testbed"

# What a Debian server has before anybody works on it ...
SERVER_PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "libpam-systemd",
    "openssh-server",
    "iproute2",
    "procps",
    "kmod",
)
# ... and what the README asks for. python3-venv is absent on purpose: `make setup` has to install it.
PREREQUISITES = ("git", "make", "python3", "sudo", "ca-certificates", "curl")

# Manuals and translations are 60 MB that no test reads.
DPKG_OPTIONS = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)

FILES = {
    "etc/ssh/sshd_config.d/key-only.conf": "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
    "PermitRootLogin no\n",
    f"etc/sudoers.d/{USER}": f"{USER} ALL=(ALL:ALL) NOPASSWD: ALL\n",
    # systemd of Debian 13 makes /etc/default/locale a link to this one at boot; Debian 12 reads only the former.
    "etc/locale.conf": "LANG=C.UTF-8\n",
    "etc/default/locale": "LANG=C.UTF-8\n",
}

# $1 is the root of the new system. Host keys and machine id are each host's own, so the image has none.
# An empty machine id is filled at boot; the word "uninitialized" would also ask for first-boot questions.
CUSTOMIZE = f"""
set -eu
chown -R 0:0 "$1/etc/ssh/sshd_config.d" "$1/etc/sudoers.d" "$1/usr/local/share/ca-certificates"
chmod 0440 "$1/etc/sudoers.d/{USER}"
chroot "$1" useradd --create-home --shell /bin/bash --password '*' {USER}
chroot "$1" install -d -m 0700 -o {USER} -g {USER} /home/{USER}/.ssh
chroot "$1" update-ca-certificates
rm -f "$1"/etc/ssh/ssh_host_*
: > "$1/etc/machine-id"
chroot "$1" systemctl set-default multi-user.target
chroot "$1" systemctl mask console-getty.service getty@.service getty-static.service
# A host shares the machine's kernel: what these set would be set for the whole machine.
chroot "$1" systemctl mask systemd-sysctl.service systemd-modules-load.service systemd-timesyncd.service
"""


def image_name(distro: str, taken: Inherited) -> str:
    """Name the image by all that goes into it.

    Args:
        distro: code name of the Debian release.
        taken: what is taken over from this machine.

    Returns:
        `kit-testbed/<distro>:<hash>`, 12 hexadecimal digits.
    """
    content = [distro, SERVER_PACKAGES, PREREQUISITES, DPKG_OPTIONS, FILES, CUSTOMIZE, asdict(taken)]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{REPOSITORY}/{distro}:{digest[:12]}"


def ensure_image(distro: str) -> str:
    """Give the host image, building it (20 to 60 s) if this machine does not have it yet.

    Args:
        distro: code name of the Debian release.

    Returns:
        The image's name.

    Raises:
        TestbedError: mmdebstrap is missing or failed.
    """
    taken = inherited(distro)
    name = image_name(distro, taken)
    if not lines("image", "ls", "--quiet", name):
        _build(distro, name, taken)
        _drop_older(distro, name)
    return name


def _build(distro: str, name: str, taken: Inherited) -> None:
    try:
        need_mmdebstrap(print)
    except EngineError as error:
        raise TestbedError(error.problem, error.remedy) from error
    with tempfile.TemporaryDirectory(prefix="kit-testbed-", dir=work_folder()) as folder:
        stage = Path(folder, "stage")
        _stage(stage, taken)
        sources = Path(folder, f"{distro}.sources")
        sources.write_text(taken.sources)
        log = Path(folder, "mmdebstrap.log")
        words = ["mmdebstrap", "--variant=minbase", f"--include={','.join(SERVER_PACKAGES + PREREQUISITES)}"]
        words += [f"--aptopt={line}" for line in taken.apt]
        words += [f"--dpkgopt={line}" for line in DPKG_OPTIONS]
        words += [f"--keyring={path}" for path in (DEFAULT_KEYRING, *taken.keyrings)]
        words += [f"--customize-hook=sync-in {shlex.quote(str(stage))} /", f"--customize-hook={CUSTOMIZE}"]
        words += [distro, "-", str(sources)]
        environment = {**os.environ, "TMPDIR": folder}
        with log.open("wb") as errors:
            making = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, env=environment)
            # Our own end of the pipe is closed after the import: else a refused import leaves mmdebstrap
            # writing into it for ever.
            assert making.stdout is not None
            with making.stdout as archive:
                importing = subprocess.run(
                    ["docker", "import", "-", name], stdin=archive, capture_output=True, text=True, check=False
                )
            failed = making.wait() != 0
        if failed or importing.returncode:
            if not importing.returncode:
                docker("image", "rm", name)
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
            raise TestbedError(
                f"mmdebstrap could not make a host image of {distro}: {importing.stderr.strip()}\n{tail}",
                "check that this machine's apt reaches its mirror: apt-get update",
            )


def _stage(stage: Path, taken: Inherited) -> None:
    files = dict(FILES)
    for number, certificate in enumerate(taken.certificates, 1):
        files[f"usr/local/share/ca-certificates/company-{number}.crt"] = certificate
    if taken.pip:
        files["etc/pip.conf"] = "[global]\n" + "".join(f"{key} = {value}\n" for key, value in taken.pip)
    (stage / "usr/local/share/ca-certificates").mkdir(parents=True)
    for path, text in files.items():
        target = stage / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    for keyring in taken.keyrings:
        target = stage / keyring.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(keyring, target)


def _drop_older(distro: str, name: str) -> None:
    for found in lines("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", f"{REPOSITORY}/{distro}"):
        if found != name and re.fullmatch(rf"{REPOSITORY}/{distro}:[0-9a-f]{{12}}", found):
            # An image in use by another run stays; the engine refuses to remove it.
            subprocess.run(["docker", "image", "rm", found], capture_output=True, check=False)
