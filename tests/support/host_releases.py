"""Releases of a small project on this machine's engine, the way that a host gets them from a control node."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml
from kit_control import release_archive
from kit_control.services import project_name
from testbed.hosts import free_ports

from support.engine import app_image, base_image
from support.engine_stack import PACKAGES, docker, remove_project
from support.kit import FIXTURE, playbook
from support.prod_stack import lay_out
from support.traffic import Summary, Traffic, summary

DOMAIN = "site.test"
SECRETS = {"KEY": "k" * 64, "PGPASSWORD": "canary-database-password"}
# Added to the settings module: a table that POSTs fill, an answer that takes its time, the version that answers.
VIEWS = """

import time

from django.views.decorators.csrf import csrf_exempt

# Else most of an answer's time is PostgreSQL's, which starts a process for each connection.
DATABASES["default"].update(CONN_MAX_AGE=60, CONN_HEALTH_CHECKS=True)


@csrf_exempt
def add(request):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO kit_rows (text) VALUES (%s)", [request.POST["text"]])
    return HttpResponse("added\\n")


def rows(_request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM kit_rows")
        return HttpResponse(f"{cursor.fetchone()[0]}\\n")


def slow(_request, seconds):
    time.sleep(seconds)
    return HttpResponse("slept\\n")


def version(_request):
    return HttpResponse("VERSION")


urlpatterns += [path("add", add), path("rows", rows), path("slow/<int:seconds>", slow), path("version", version)]
"""
MIGRATE = """\
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_settings")
import django
django.setup()
from django.core.management import call_command
from django.db import connection
call_command("migrate", "--noinput")
with connection.cursor() as cursor:
    cursor.execute("CREATE TABLE IF NOT EXISTS kit_rows (id bigserial PRIMARY KEY, text text)")
"""
# How a worker begins: Django, and SIGTERM, after which it takes no more jobs.
WORKER = """
import os, signal, time
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_settings")
import django
django.setup()
from django.db import DatabaseError, connection
ends = []
signal.signal(signal.SIGTERM, lambda *_: ends.append(True))
"""
TIMEOUT_SECONDS = 240
# Between two answers of a steady stream, on a machine that has other work too; the bench knows the exact bar.
LONGEST_GAP_SECONDS = 3.0


def write_project(
    folder: Path,
    name: str,
    text: str,
    *,
    settings: str = "",
    migrate: str = MIGRATE,
    manifest: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write a version of the project.

    Args:
        folder: replaced where it is there.
        name: of the project.
        text: what its ``/version`` answers.
        settings: Python at the end of its settings module.
        migrate: its release command.
        manifest: keys of its manifest that differ.
        files: further ones, by their path.

    Returns:
        The manifest.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(FIXTURE.parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    module = folder / "site_settings.py"
    start = "application = get_wsgi_application()\n"
    body = module.read_text().replace(start, "") + VIEWS.replace("VERSION", text) + settings
    module.write_text(f"{body}\n{start}")
    for file, content in {"kit_migrate.py": migrate, **(files or {})}.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(content)
    path = folder / "deploy.yml"
    commands = {"commands": [["python", "kit_migrate.py"]]}
    told = {**yaml.safe_load(path.read_text()), "name": name, "release": commands, **(manifest or {})}
    path.write_text(yaml.safe_dump(told))
    return path


# What a broken version differs by, the code that its release fails with, and words by which that names the cause.
BROKEN: dict[str, tuple[dict[str, str], str, str]] = {
    "does not start": (
        {"settings": "\nraise SystemExit(3)\n"},
        "migrate",
        "Release command `python kit_migrate.py` ended with 3",
    ),
    "migration raises": ({"migrate": "raise SystemExit('no such column')"}, "migrate", "no such column"),
    "answers with errors": (
        {"settings": "\nurlpatterns = [path('up', lambda request: HttpResponse('broken', status=500))]\n"},
        "not_ready",
        "HTTP 500",
    ),
    "ends when it serves": (
        {"settings": "\nimport os, sys\nif 'gunicorn' in sys.argv[0]: os._exit(3)\n"},
        "unhealthy",
        "Service web",
    ),
    "hangs for ever": (
        {"settings": "\nimport sys, time\nif 'gunicorn' in sys.argv[0]: time.sleep(10000)\n"},
        "not_ready",
        "The new release does not get ready",
    ),
}


def given_up_after(journal: str) -> float:
    """Seconds from the begin of the first step that failed to its failure.

    Args:
        journal: text of a release's journal.
    """
    events = [json.loads(line) for line in journal.splitlines()]
    failed = next(one for one in events if one["event"] == "failed")
    begun = next(one for one in events if one["event"] == "begin" and one["step"] == failed["step"])
    return float(failed["time"] - begun["time"])


@dataclass(frozen=True)
class Version:
    """One version of the project, ready to be released: its bundle and what a control node says of it."""

    bundle: Path
    image: str

    @property
    def files(self) -> dict[str, release_archive.Entry]:
        """The bundle's files."""
        return release_archive.bundle_files(self.bundle, None)


@dataclass
class Told:
    """How a call of the engine ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Its answer."""
        answer: dict[str, Any] = json.loads(self.out.strip().splitlines()[-1])
        return answer


@dataclass
class HostReleases:
    """A deploy root, and the project that is released into it."""

    scratch: Path
    name: str
    http_port: int
    https_port: int
    number: int = 0
    variables: dict[str, Any] = field(default_factory=dict)
    made: list[Version] = field(default_factory=list)
    # Seconds that a call of the engine may take.
    limit: float = TIMEOUT_SECONDS

    @property
    def root(self) -> Path:
        """The deploy root."""
        return self.scratch / "host"

    @property
    def project(self) -> str:
        """Name of the Compose project."""
        return project_name(self.name, "prod")

    @property
    def current(self) -> str:
        """Id of the release that serves."""
        return (self.root / "current").resolve().name

    def version(
        self,
        text: str,
        *,
        settings: str = "",
        migrate: str = MIGRATE,
        manifest: Mapping[str, Any] | None = None,
        variables: Mapping[str, Any] | None = None,
        further_variables: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> Version:
        """Build and render a version.

        Args:
            text: what its ``/version`` answers.
            settings: Python at the end of its settings module.
            migrate: its release command.
            manifest: keys of its manifest that differ.
            variables: inputs of role release_bundle that differ.
            further_variables: of its environment, as its manifest declares them.
            files: further ones of its source, by their path.
        """
        folder = self.scratch / f"version-{len(self.made)}"
        path = write_project(
            folder / "source", self.name, text, settings=settings, migrate=migrate, manifest=manifest, files=files
        )
        if further_variables:
            project = yaml.safe_load(path.read_text())
            project["variables"].update(further_variables)
            path.write_text(yaml.safe_dump(project))
        image = app_image(path, "release")
        run = playbook(
            "render",
            "prod",
            {
                "project_manifest": str(path),
                "release_bundle_images": {
                    **{name: base_image(name) for name in ("postgres", "redis", "nginx")}, "app": image,
                },
                "release_bundle_secret_values": SECRETS,
                "release_bundle_edge_address": "127.0.0.1",
                "release_bundle_http_port": self.http_port,
                "release_bundle_https_port": self.https_port,
                "release_bundle_web_workers": 2,
                "app_domains": [DOMAIN],
                # This machine shall get no timers.
                "backup_schedule": "",
                "backup_drill_schedule": "",
                **self.variables,
                **(variables or {}),
            },
            scratch=folder,
        )  # fmt: skip
        assert run.code == 0, run.output
        made = Version(folder / "build/prod", image)
        self.made.append(made)
        return made

    def prepare_words(self, version: Version | None, **request: Any) -> list[str]:
        """Arguments of the engine for the first phase; without a version the current release is brought up again."""
        self.number += 1
        asked = {
            "phase": "prepare",
            "id": f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-v{self.number:03}",
            "configuration": release_archive.configuration(version.files) if version else "",
            "env": "prod", "ref": "HEAD", "sha": "0" * 40, "dirty": False,
            "image": version.image if version else self.made[-1].image, "who": "tests@here",
            **request,
        }  # fmt: skip
        return ["release", "--json", "--request", json.dumps(asked)]

    def archive(self, version: Version) -> bytes:
        """What the control node sends."""
        return release_archive.pack(version.files, {})

    def engine(self, *words: str, stdin: bytes = b"") -> Told:
        """Call the engine."""
        with self.started(*words) as running:
            out, err = running.communicate(stdin, timeout=self.limit)
        return Told(running.returncode, out.decode(), err.decode())

    def started(self, *words: str) -> subprocess.Popen[bytes]:
        """Start the engine; it leads a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "kit_engine", "--root", str(self.root), *words],
            env={**os.environ, "PYTHONPATH": str(PACKAGES)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def prepare(self, version: Version | None, **request: Any) -> Told:
        """Go through the first phase."""
        stdin = self.archive(version) if version else b""
        return self.engine(*self.prepare_words(version, **request), stdin=stdin)

    def phase(self, name: str, **request: Any) -> Told:
        """Go through a later phase."""
        return self.engine("release", "--json", "--request", json.dumps({"phase": name, **request}))

    def deploy(self, version: Version | None, *, problem: str = "", keep: int = 5, **request: Any) -> Told:
        """Go through all phases, up to the first that fails, as a control node does for one host.

        Args:
            version: what to release.
            problem: what the smoke gate finds.
            keep: how many good releases stay.
            request: further facts for the first phase.
        """
        told = self.prepare(version, **{"switch": True, "keep": keep, **request})
        if told.code == 0:
            told = self.phase("finish", problem=problem, keep=keep)
        return told

    def rollback(self, release: str = "") -> Told:
        """Go back as docker-manage.sh does."""
        return self.engine("rollback", "--json", *([release] if release else []))

    def record(self, release: str) -> dict[str, Any]:
        """A release's record."""
        told: dict[str, Any] = json.loads((self.root / f"records/{release}.json").read_text())
        return told

    def containers(self) -> dict[str, list[str]]:
        """Ids of the running containers by service."""
        template = '{{.Label "com.docker.compose.service"}} {{.ID}}'
        label = f"label=com.docker.compose.project={self.project}"
        found: dict[str, list[str]] = {}
        for line in docker("ps", "--all", "--no-trunc", "--filter", label, "--format", template).splitlines():
            service, _, container = line.partition(" ")
            found.setdefault(service, []).append(container)
        return found

    def traffic(self, rate: float = 60.0) -> Traffic:
        """Load for the site."""
        return Traffic(self.https_port, DOMAIN, rate, "/up", "/add")

    def ask(self, path: str) -> str:
        """What the site answers."""
        words = ["curl", "-fsSk", "--max-time", "20", "--resolve", f"{DOMAIN}:{self.https_port}:127.0.0.1"]
        url = f"https://{DOMAIN}:{self.https_port}{path}"
        return subprocess.run([*words, url], capture_output=True, text=True, timeout=30, check=True).stdout.strip()

    def remove(self) -> None:
        """Remove all that was made."""
        remove_project(self.project)
        for version in self.made:
            subprocess.run(["docker", "image", "rm", "--force", version.image], capture_output=True, check=False)


def make(scratch: Path) -> HostReleases:
    """Prepare a deploy root with a certificate, and nothing released yet."""
    http_port, https_port = free_ports(2)
    host = HostReleases(scratch, f"kit_test_{uuid4().hex[:8]}", http_port, https_port)
    host.root.mkdir()
    lay_out(host.root, host.name, DOMAIN)
    return host


def kill_group(running: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a started engine and all that it started."""
    os.killpg(running.pid, number)


@dataclass
class Released:
    """The host, with a first good release that serves."""

    host: HostReleases
    good: Version
    other: Version


def under_load(host: HostReleases, version: Version, *, problem: str = "") -> tuple[Told, Summary]:
    """Release a version while visitors come, one of whom asks for what takes long."""
    with host.traffic().running() as load:
        time.sleep(0.5)
        load.slow("/slow/8")
        told = host.deploy(version, problem=problem, backup=True)
        time.sleep(0.5)
    return told, summary(load.requests)


def demand_served(seen: Summary) -> None:
    """Refuse a single failed request."""
    assert not seen.failed, "\n".join(map(str, seen.failed))
    assert seen.count > 50
    assert seen.longest_gap < LONGEST_GAP_SECONDS


def demand_whole(host: HostReleases, serving: str, text: str) -> None:
    """Refuse anything left of another release than the one that serves."""
    assert host.current == serving
    assert host.ask("/version") == text
    assert {name: len(ids) for name, ids in host.containers().items()} == {"db": 1, "nginx": 1, "web": 1}
    assert [path.name for path in (host.root / "shared/run").iterdir() if path.name not in ("live", serving)] == []
    assert not (host.root / "records/pending.json").exists()
