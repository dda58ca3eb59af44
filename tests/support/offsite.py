"""Places that copies of backups go to: Debian's restic and SFTP server, only unpacked, and an S3 server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from kit_engine.stack import OFFSITE_SECRETS
from testbed.hosts import free_ports

from support.backups import limits
from support.host_releases import HostReleases
from support.kit import ROOT

CANARY = "canary-8Kx2offsite"
FOLDER = ROOT / "build/test/offsite"
PACKAGES = ("restic", "openssh-sftp-server")
START_SECONDS = 60
# restic calls `ssh -E <log> … <host> -s sftp`: the host at the other end of it is this one.
_SSH = """#!/bin/sh
echo "$@" >>"{log}"
[ ! -e "{gone}" ] || {{ echo "ssh: connect to host other: Connection refused" >>"$2"; exit 255; }}
exec "{server}"
"""


@dataclass(frozen=True)
class Place:
    """Where copies go.

    Attributes:
        repository: as RESTIC_REPOSITORY has it.
        environment: what restic needs there.
        programs: folder that PATH must begin with.
        folder: where its files lie; None where they lie in memory.
        gone: a file; while it is there, nothing answers.
        log: of what `ssh` was called with.
    """

    repository: str
    environment: dict[str, str]
    programs: str
    folder: Path | None
    gone: Path
    log: Path


def packages() -> Path:
    """Unpack the programs, once."""
    program = FOLDER / "usr/bin/restic"
    if not program.is_file():
        FOLDER.mkdir(parents=True, exist_ok=True)
        for words in (["apt-get", "update", "--quiet=2"], ["apt-get", "download", "--quiet=2", *PACKAGES]):
            subprocess.run(words, cwd=FOLDER, capture_output=True, timeout=300, check=True)
        for package in FOLDER.glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", str(package), str(FOLDER)], timeout=60, check=True)
    return FOLDER


def by_sftp(scratch: Path) -> Place:
    """A folder that the real SFTP server program serves."""
    place = scratch / "elsewhere"
    place.mkdir()
    programs = scratch / "programs"
    programs.mkdir()
    gone, log = scratch / "gone", scratch / "ssh.log"
    log.touch()
    (programs / "restic").symlink_to(packages() / "usr/bin/restic")
    server = packages() / "usr/lib/openssh/sftp-server"
    (programs / "ssh").write_text(_SSH.format(log=log, gone=gone, server=server))
    (programs / "ssh").chmod(0o755)
    environment = {"RESTIC_PASSWORD": f"{CANARY}-password"}
    return Place(f"sftp:kit@other:{place}/kit", environment, str(programs), place, gone, log)


@contextmanager
def by_s3(scratch: Path, *, append_only: bool = False) -> Iterator[Place]:
    """A bucket of a server on loopback; with ``append_only`` nothing in it can be removed."""
    (port,) = free_ports(1)
    programs = scratch / "programs-s3"
    programs.mkdir()
    (programs / "restic").symlink_to(packages() / "usr/bin/restic")
    environment = {
        "RESTIC_PASSWORD": f"{CANARY}-password",
        "AWS_ACCESS_KEY_ID": "kit",
        "AWS_SECRET_ACCESS_KEY": f"{CANARY}-s3",
    }
    with subprocess.Popen(
        [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as serving:  # fmt: skip
        try:
            end = time.monotonic() + START_SECONDS
            while not _answers(port):
                assert time.monotonic() < end, "the S3 server does not answer"
                time.sleep(0.2)
            with _without_delete(port) if append_only else nullcontext(port) as asked:
                place = f"s3:http://127.0.0.1:{asked}/kit"
                yield Place(place, environment, str(programs), None, scratch / "gone-s3", scratch / "no.log")
        finally:
            serving.terminate()


@contextmanager
def _without_delete(port: int) -> Iterator[int]:
    """Pass all requests on but those that delete; gives the port to ask."""

    class Guard(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            connection = HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def refuse(self) -> None:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

        do_GET = do_HEAD = do_PUT = do_POST = pass_on  # noqa: N815 - as http.server wants them
        do_DELETE = refuse  # noqa: N815

    with ThreadingHTTPServer(("127.0.0.1", 0), Guard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


def _answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return bool(answer.status)
    except (URLError, OSError):
        return False


@contextmanager
def configured(host: HostReleases, place: Place, **changed: object) -> Iterator[None]:
    """Have a host's release copy to a place, as if it had been rendered so."""
    secrets = (host.root / "current").resolve() / "secrets" / OFFSITE_SECRETS
    secrets.touch(mode=0o600)
    secrets.write_text(json.dumps({"environment": place.environment, "ssh_key": "", "known_hosts": ""}))
    try:
        with limits(host, offsite_repository=place.repository, **changed):
            yield
    finally:
        secrets.unlink()
