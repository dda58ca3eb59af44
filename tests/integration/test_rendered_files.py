"""What `make render` gives in a fresh clone, without a host and without a secret, is what Compose and nginx accept."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from kit_control.manifest import load
from support.engine import base_image
from support.engine_stack import docker
from support.kit import EXAMPLE, FIXTURE, playbook

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("manifest", [EXAMPLE, FIXTURE], ids=["example", "second project"])
@pytest.mark.parametrize("env", ["local", "dev", "prod"])
def test_compose_and_nginx_accept_the_files(env: str, manifest: Path, tmp_path: Path) -> None:
    run = playbook("render", env, {"project_manifest": str(manifest)}, scratch=tmp_path)
    assert run.code == 0, run.output
    bundle = tmp_path / "build" / env
    words = ["docker", "compose", "--file", str(bundle / f"docker-compose.{env}.yml"), "config", "--quiet"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if env == "prod":
        check_nginx(bundle / "nginx", tmp_path / "ssl", load(manifest).name)


def check_nginx(configuration: Path, certificates: Path, name: str) -> None:
    """Have nginx judge its files; the certificate, which is installed on the host, is made up."""
    served = certificates / name / "current"
    served.mkdir(parents=True)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x",
         "-keyout", str(served / "privkey.pem"), "-out", str(served / "fullchain.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    volumes = ("--volume", f"{configuration}:/etc/nginx/kit:ro", "--volume", f"{certificates}:/etc/nginx/ssl:ro")
    words = ("nginx", "-t", "-c", "/etc/nginx/kit/nginx.conf")
    docker("run", "--rm", "--network=none", *volumes, base_image("nginx"), *words)
