"""A small real stack for the engine: the second project on the base images, source and packages mounted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from kit_engine import systemd
from testbed.hosts import free_ports

from support.engine import RECORD, base_image
from support.kit import FIXTURE, ROOT

PACKAGES = ROOT / "plugins/module_utils"
PASSWORD = "s3cret-canary"  # noqa: S105 - a stand-in to look for
ENV_FILE = f"""\
KEY=a-key-of-more-than-fifty-characters-for-django-to-be-content
HOSTS=site.test
GUESTBOOK_DEBUG=true
PGHOST=db
PGDATABASE=guestbook
PGUSER=guestbook
PGPASSWORD={PASSWORD}
DJANGO_SETTINGS_MODULE=site_settings
PYTHONPATH=/opt/site
PYTHONUNBUFFERED=1
PYTHONDONTWRITEBYTECODE=1
HOME=/tmp
"""
# Generous for a loaded machine; what must be quick is asserted where it is claimed.
TIMEOUT_SECONDS = 180


@dataclass(frozen=True)
class Ended:
    """How a call of the engine ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Its one JSON object."""
        (line,) = self.out.splitlines()
        told: dict[str, Any] = json.loads(line)
        return told


@dataclass
class SmallStack:
    """A deploy root with a Compose file and a stack.json, written anew by :meth:`write`."""

    root: Path
    source: Path
    site: Path
    project: str
    web_port: int
    db_port: int
    uid: int = 10001

    @property
    def volume(self) -> str:
        """Real name of the database's volume."""
        return f"{self.project}_postgres_data_local"

    def write(
        self,
        *,
        web_command: list[str] | None = None,
        release_commands: list[list[str]] | None = None,
        description: dict[str, Any] | None = None,
    ) -> None:
        """Write the bundle.

        Args:
            web_command: what web runs; default is Django's own server.
            release_commands: default is migrate.
            description: keys of stack.json that differ from a sound one.
        """
        secrets = self.root / "secrets"
        secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
        (secrets / "database_password").write_text(PASSWORD)
        (self.root / "records").mkdir(exist_ok=True)
        shutil.copyfile(RECORD, self.root / "records/base_images.json")
        (self.root / ".env.local").write_text(ENV_FILE)
        runserver = ["python3", "manage.py", "runserver", "--noreload", "0.0.0.0:8000"]
        (self.root / "docker-compose.local.yml").write_text(json.dumps(self._compose(web_command or runserver)))
        told = self._description(release_commands or [["python3", "manage.py", "migrate", "--noinput"]])
        (self.root / "stack.json").write_text(json.dumps({**told, **(description or {})}))

    def run(
        self,
        *words: str,
        program: tuple[str, ...] = (sys.executable, "-m", "kit_engine"),
        user: int | None = None,
        stdin: str = "",
        **environment: str,
    ) -> Ended:
        """Call the engine.

        Args:
            words: verb and arguments.
            program: how it is started.
            user: run it as this user; needs root.
            stdin: its standard input, which is no terminal.
            environment: variables on top of our own.

        Returns:
            How it ended.
        """
        done = subprocess.run(
            [*program, "--root", str(self.root), *words],
            env={**os.environ, "PYTHONPATH": str(PACKAGES), **environment},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            user=user,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def up(self) -> dict[str, Any]:
        """Bring it up, which must succeed."""
        ended = self.run("up", "--json")
        assert ended.code == 0, ended.err
        return ended.json

    def containers(self) -> dict[str, str]:
        """Ids of all containers by name."""
        listed = docker("ps", "--all", "--no-trunc", "--filter", f"label=com.docker.compose.project={self.project}",
                        "--format", "{{.Names}} {{.ID}}")  # fmt: skip
        return {line.split()[0]: line.split()[1] for line in listed.splitlines()}

    def remove(self) -> None:
        """Remove everything of the project, whatever state it is in."""
        remove_project(self.project)

    def _compose(self, web_command: list[str]) -> dict[str, Any]:
        return {
            "name": self.project,
            "services": {
                "db": {
                    "image": base_image("postgres"),
                    "environment": {
                        "POSTGRES_DB": "guestbook",
                        "POSTGRES_USER": "guestbook",
                        "POSTGRES_PASSWORD_FILE": "/run/secrets/database_password",
                    },
                    "healthcheck": {
                        "test": ["CMD", "pg_isready", "--quiet", "--host=127.0.0.1", "--username=guestbook"],
                        "interval": "2s",
                    },
                    "init": True,
                    "restart": "unless-stopped",
                    "volumes": ["postgres_data_local:/var/lib/postgresql/data"],
                    "ports": [f"127.0.0.1:{self.db_port}:5432"],
                    "secrets": ["database_password"],
                },
                "web": {
                    "image": base_image("python"),
                    "user": f"{self.uid}:{self.uid}",
                    "working_dir": "/app",
                    "command": web_command,
                    "env_file": "${KIT_BUNDLE:-.}/.env.local",
                    "depends_on": {"db": {"condition": "service_healthy"}},
                    "init": True,
                    "restart": "unless-stopped",
                    "stop_grace_period": "2s",
                    "volumes": [f"{self.source}:/app", f"{self.site}:/opt/site:ro"],
                    "ports": [f"127.0.0.1:{self.web_port}:8000"],
                },
            },
            "volumes": {"postgres_data_local": {"name": self.volume}},
            "secrets": {"database_password": {"file": "../secrets/database_password"}},
        }

    def _description(self, release_commands: list[list[str]]) -> dict[str, Any]:
        return {
            "schema": 1,
            "name": "guestbook",
            "env": "local",
            "project": self.project,
            "compose_file": "docker-compose.local.yml",
            "env_file": ".env.local",
            "services": ["db", "web"],
            "app_services": ["web"],
            "probe": {
                "url": f"http://127.0.0.1:{self.web_port}",
                "host": "site.test",
                "ready": "/up",
            },
            "manage": ["python3", "manage.py"],
            "release_commands": release_commands,
            "ports": [
                {"address": "127.0.0.1", "port": self.web_port, "service": "web", "choose": "WEB_PORT"},
                {"address": "127.0.0.1", "port": self.db_port, "service": "db", "choose": "DB_PORT"},
            ],
            "database": {
                "service": "db",
                "volume": self.volume,
                "image": base_image("postgres"),
                "name": "guestbook",
                "user": "guestbook",
            },
            "first_admin": {"username": "admin", "email": "admin@example.com"},
            "source": {
                "path": str(self.source),
                "writable_paths": [{"path": "media/uploads"}],
                "uid": self.uid,
                "gid": self.uid,
            },
            "limits": {"min_free_bytes": 1, "ready_timeout_seconds": 60, "command_timeout_seconds": 120},
        }


def make(folder: Path, site: Path) -> SmallStack:
    """Make a stack with a project name and ports of its own.

    Args:
        folder: empty, for deploy root and source.
        site: the project's Python packages.

    Returns:
        The stack; nothing is written or started.
    """
    source = folder / "source"
    shutil.copytree(FIXTURE.parent, source, ignore=shutil.ignore_patterns("__pycache__"))
    web_port, db_port = free_ports(2)
    return SmallStack(folder / "root", source, site, f"kit-test-{uuid4().hex[:8]}", web_port, db_port)


def install_packages(target: Path) -> None:
    """Install the second project's locked packages for the Python of the base image."""
    uv = Path(sys.executable).parent / "uv"
    lock = FIXTURE.parent / "requirements.txt"
    words = [str(uv), "pip", "install", "--quiet", "--python-version", "3.13", "--target", str(target)]
    # pytest's folders are private; the app inside is another user.
    target.chmod(0o755)
    subprocess.run([*words, "--require-hashes", "--compile-bytecode", "--requirement", str(lock)], check=True)


def docker(*words: str) -> str:
    """Run a docker command that must succeed, and give its output."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
    return done.stdout


def remove_project(project: str) -> None:
    """Remove all containers, volumes and networks of a Compose project that a test made."""
    label = f"label=com.docker.compose.project={project}"
    for kind, flags in (("container", ["--force", "--volumes"]), ("volume", ["--force"]), ("network", [])):
        every = ["--all"] if kind == "container" else []
        names = docker(kind, "ls", *every, "--quiet", "--filter", label).split()
        if names:
            docker(kind, "rm", *flags, *names)
    # Where this machine's PID 1 is systemd, a release has it start this at boot.
    for folder in ("", "multi-user.target.wants"):
        (systemd.UNITS / folder / f"{project}-recover.service").unlink(missing_ok=True)
