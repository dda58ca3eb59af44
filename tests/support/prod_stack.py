"""The rendered prod environment, brought up on this machine's engine the way a host would have it."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml
from kit_control.services import project_name
from testbed.hosts import free_ports

from support.engine import RECORD, app_image, base_image
from support.engine_stack import PACKAGES, docker, remove_project
from support.kit import EXAMPLE, playbook

# A name of its own: whatever of this name is on the machine is ours to remove.
NAME = f"kit_test_{uuid4().hex[:8]}"
DOMAIN = "www.example.com"
# What a registry knows of the example's own settings; the rest is made up as long as it may be.
VARIABLES = {"EMAIL_HOST": "mail.invalid", "DEFAULT_FROM_EMAIL": "Site <site@example.com>"}
SECRETS = {
    "SECRET_KEY": "canary-secret-key-" + "k" * 50,
    "JWT_SIGNING_KEY": "canary-jwt-key-" + "j" * 50,
    "DATABASE_PASSWORD": "canary-database-password",
    "REDIS_PASSWORD": "canary-redis-password",
    "EMAIL_HOST_PASSWORD": "canary-mail-password",
}


# Who the server is does not matter here. Made once: to make one takes as long as ten requests.
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TLS.check_hostname = False
TLS.verify_mode = ssl.CERT_NONE


@dataclass(frozen=True)
class ProdStack:
    """A prod environment that is up."""

    root: Path
    http_port: int
    https_port: int

    @property
    def project(self) -> str:
        """Name of its Compose project."""
        return project_name(NAME, "prod")

    def container(self, service: str) -> str:
        """Name of a service's container."""
        return f"{self.project}-{service}-1"

    def engine(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Call the engine."""
        return subprocess.run(
            ["python3", "-m", "kit_engine", "--root", str(self.root), *words],
            env={**os.environ, "PYTHONPATH": str(PACKAGES)},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def log(self, service: str) -> str:
        """Everything that a service's container said, on either stream."""
        words = ["docker", "logs", self.container(service)]
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30, check=True
        )
        return done.stdout

    def inside(self, service: str, *words: str) -> str:
        """Run a command in a service's container."""
        return docker("exec", self.container(service), *words)

    def ask(
        self, path: str, *, method: str = "GET", body: str | None = None, host: str = DOMAIN, **headers: str
    ) -> tuple[HTTPResponse, bytes]:
        """Ask nginx over TLS.

        Args:
            path: of the request.
            method: of the request.
            body: of the request.
            host: server name and Host header.
            headers: further headers; ``_`` stands for ``-``.
        """
        return _ask(self.connect(host), method, path, body, {"Host": host, **headers})

    def connect(self, host: str = DOMAIN) -> HTTPSConnection:
        """Connect to nginx with TLS, as visitors of a host do."""
        connection = HTTPSConnection("127.0.0.1", self.https_port, timeout=20)
        # The server's name goes into the handshake, though the address is another one.
        plain = socket.create_connection(("127.0.0.1", self.https_port), timeout=20)
        connection.sock = TLS.wrap_socket(plain, server_hostname=host)
        return connection

    def ask_plain(self, path: str, host: str = DOMAIN) -> tuple[HTTPResponse, bytes]:
        """Ask nginx without TLS."""
        return _ask(HTTPConnection("127.0.0.1", self.http_port, timeout=20), "GET", path, None, {"Host": host})


def _ask(
    connection: HTTPConnection, method: str, path: str, body: str | None, headers: Mapping[str, str]
) -> tuple[HTTPResponse, bytes]:
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def bring_up(scratch: Path, variables: Mapping[str, Any]) -> ProdStack:
    """Render prod and start it.

    Args:
        scratch: an empty folder.
        variables: the project's own variables on top of :data:`VARIABLES`.

    Returns:
        The stack; every service is healthy.
    """
    http_port, https_port = free_ports(2)
    manifest = scratch / "deploy.yml"
    renamed = {**yaml.safe_load(EXAMPLE.read_text()), "name": NAME, "source": {"path": str(EXAMPLE.parent)}}
    manifest.write_text(yaml.safe_dump(renamed))
    images = {name: base_image(name) for name in ("postgres", "redis", "nginx")}
    run = playbook(
        "render",
        "prod",
        {
            "project_manifest": str(manifest),
            "release_bundle_images": {**images, "app": app_image(manifest, "release")},
            "release_bundle_secret_values": SECRETS,
            "release_bundle_edge_address": "127.0.0.1",
            "release_bundle_http_port": http_port,
            "release_bundle_https_port": https_port,
            "app_domains": [DOMAIN],
            "app_variables": {**VARIABLES, **variables},
        },
        scratch=scratch,
    )
    assert run.code == 0, run.output
    assert "__MISSING__" not in run.output
    root = scratch / "build/prod"
    lay_out(root, NAME, DOMAIN)
    stack = ProdStack(root, http_port, https_port)
    done = stack.engine("up", "--json")
    assert done.returncode == 0, done.stderr
    return stack


def lay_out(root: Path, name: str, domain: str) -> None:
    """What a host's deploy root holds beside the bundle: a challenge's answer, a certificate, which images it has.

    Args:
        root: the deploy root.
        name: of the project.
        domain: that the certificate is for.
    """
    (root / "shared/nginx/acme/.well-known/acme-challenge").mkdir(parents=True)
    (root / "shared/nginx/acme/.well-known/acme-challenge/token").write_text("proof")
    served = root / f"shared/nginx/ssl/{name}/1"
    served.mkdir(parents=True)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={domain}", "-keyout", str(served / "privkey.pem"), "-out", str(served / "fullchain.pem")],
        check=True,
        capture_output=True,
    )  # fmt: skip
    (served.parent / "current").symlink_to("1")
    os.chown(served / "privkey.pem", 101, 101)
    (root / "records").mkdir()
    shutil.copyfile(RECORD, root / "records/base_images.json")
    for folder in (root, *root.parents):
        # pytest's folders are private, and the containers' users are others.
        if folder.stat().st_mode & 0o005 != 0o005 and "pytest" in folder.as_posix():
            folder.chmod(folder.stat().st_mode | 0o055)


def remove() -> None:
    """Remove everything that :func:`bring_up` made, whatever state it is in."""
    remove_project(project_name(NAME, "prod"))
    images = docker("image", "ls", "--quiet", NAME).split()
    if images:
        docker("image", "rm", "--force", *images)
