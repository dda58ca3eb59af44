"""A real registry on loopback, Debian's docker-registry, unpacked beside the tests and not installed."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.hosts import Host, free_ports

from support.kit import ROOT

FOLDER = ROOT / "build/test/registry"
PROGRAM = FOLDER / "usr/bin/docker-registry"
START_SECONDS = 20


@contextmanager
def running(storage: Path, account: str = "") -> Iterator[str]:
    """Run a registry.

    Args:
        storage: folder that keeps its images.
        account: the one user who may do anything, ``<name>:<bcrypt hash>``; empty: everybody.

    Yields:
        Its host and port.
    """
    _unpack()
    (port,) = free_ports(1)
    config = storage / "config.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {storage / 'images'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\nlog: {{level: error}}\n"
    )
    if account:
        (storage / "accounts").write_text(f"{account}\n")
        with config.open("a") as file:
            file.write(f"auth: {{htpasswd: {{realm: test, path: {storage / 'accounts'}}}}}\n")
    serving = subprocess.Popen(
        [str(PROGRAM), "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + START_SECONDS
        while not _answers(port):
            assert time.monotonic() < end, "the registry does not answer"
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        serving.terminate()
        serving.wait(timeout=20)


@contextmanager
def reached_from(host: Host, address: str) -> Iterator[None]:
    """Lead a port of a host's loopback to the same one here; ``address`` is what :func:`running` gave."""
    port = address.partition(":")[2]
    words = [*host.ssh_words[:-1], "-oExitOnForwardFailure=yes", "-N", f"-R127.0.0.1:{port}:127.0.0.1:{port}"]
    with subprocess.Popen([*words, host.ssh_words[-1]], stdin=subprocess.DEVNULL) as tunnel:
        try:
            end = time.monotonic() + 20
            while host.run(f"exec 3<>/dev/tcp/127.0.0.1/{port}", check=False).returncode:
                assert time.monotonic() < end, "the registry cannot be reached from the host"
            yield
        finally:
            tunnel.terminate()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        # It asks for an account.
        return error.code == 401
    except OSError:
        return False


def _unpack() -> None:
    if PROGRAM.is_file():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    for words in (["apt-get", "update", "--quiet=2"], ["apt-get", "download", "--quiet=2", "docker-registry"]):
        subprocess.run(words, cwd=FOLDER, check=True, capture_output=True, timeout=300)
    (package,) = FOLDER.glob("docker-registry_*.deb")
    subprocess.run(["dpkg-deb", "--extract", str(package), str(FOLDER)], check=True, timeout=60)
