"""The engine's `status` and `plan` on a real stack that came as a release, as on a host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kit_control import release_archive
from support.engine_stack import ENV_FILE, PACKAGES, PASSWORD, SmallStack, docker, make

pytestmark = pytest.mark.engine

CANARY = "planted-canary-4711"


@dataclass(frozen=True)
class Host:
    """A deploy root that gets releases, and the stack that they are written from."""

    stack: SmallStack
    root: Path

    def call(self, verb: str, request: dict[str, Any], stdin: bytes = b"") -> dict[str, Any]:
        """Call a verb as a control node does; it must succeed."""
        ended = self.attempt(verb, "--json", "--request", json.dumps(request), stdin=stdin)
        assert ended.returncode == 0, ended.stderr
        told: dict[str, Any] = json.loads(ended.stdout)
        return told

    def attempt(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Call the engine on the deploy root."""
        return subprocess.run(
            [sys.executable, "-m", "kit_engine", "--root", str(self.root), *words],
            env={**os.environ, "PYTHONPATH": str(PACKAGES), "TMPDIR": str(self.root.parent / "tmp")},
            input=stdin, capture_output=True, timeout=180, check=False,
        )  # fmt: skip

    def deploy(self) -> dict[str, Any]:
        """Bring the stack's files as a release."""
        files = release_archive.bundle_files(self.stack.root, None)
        facts = {"env": "local", "ref": "HEAD", "sha": "", "dirty": False, "image": "", "who": "tester@here"}
        asked = {"id": "20250101T000000Z-abc", "configuration": release_archive.configuration(files), **facts}
        self.call("release", {"phase": "prepare", **asked}, release_archive.pack(files, {}))
        told = self.call("release", {"phase": "switch"})
        self.call("release", {"phase": "finish", "problem": "", "keep": 5})
        return told

    def plan(self, **changes: Any) -> dict[str, Any]:
        """Plan the stack's files as they are now."""
        files = release_archive.bundle_files(self.stack.root, None)
        asked = {
            "configuration": release_archive.configuration(files), "in_place": False, "secrets": ["KEY", "PGPASSWORD"],
            "environment": {}, "scratch": [], "migrations": [["auth.0001_initial", []]], "reason": "", **changes,
        }  # fmt: skip
        told = self.call("plan", asked, release_archive.pack(files, {}))
        assert told["changed"] is False
        plan: dict[str, Any] = told["plan"]
        return plan

    def wait(self) -> None:
        """Wait until the site is ready again."""
        until = time.monotonic() + 60
        while not json.loads(self.attempt("status", "--json").stdout)["ready"]:
            assert time.monotonic() < until
            time.sleep(0.5)

    def traces(self) -> tuple[Any, ...]:
        """Everything that a plan might leave: files with content, containers, volumes."""
        files = {path: path.read_bytes() for path in self.root.parent.rglob("*") if path.is_file()}
        volumes = docker("volume", "ls", "--quiet", "--filter", f"name={self.stack.project}")
        folders = sorted(path for path in self.root.parent.rglob("*") if path.is_dir())
        return files, folders, volumes, self.stack.containers(), docker("ps", "-aq", "--filter", "name=kit-plan-")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, site: Path) -> Iterator[Host]:
    """A host without a release; the tests go on from what the one before left."""
    folder = tmp_path_factory.mktemp("host")
    stack = make(tmp_path_factory.mktemp("control"), site)
    stack.write()
    # Beside the database's secret one of the app's own.
    path = stack.root / "docker-compose.local.yml"
    compose = json.loads(path.read_text())
    compose["secrets"]["app_key"] = {"file": "../secrets/app_key"}
    compose["services"]["web"]["secrets"] = ["app_key"]
    path.write_text(json.dumps(compose))
    (stack.root / "secrets/app_key").write_text(PASSWORD)
    (folder / "tmp").mkdir()
    records = folder / "root/records"
    records.mkdir(parents=True)
    (records / "base_images.json").write_bytes((stack.root / "records/base_images.json").read_bytes())
    try:
        yield Host(stack, folder / "root")
    finally:
        stack.remove()


def edit(stack: SmallStack, **values: str) -> None:
    """Give variables of the .env file other values, or add them."""
    lines = dict(line.split("=", 1) for line in ENV_FILE.splitlines()) | values
    (stack.root / ".env.local").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))


class TestPlan:
    """In the order of the file."""

    def test_first_deploy(self, host: Host) -> None:
        before = host.traces()

        plan = host.plan()

        assert plan["verdict"] == "a deploy to local would be the first one here, apply 1 migration and create db, web"
        assert {one["change"] for one in plan["files"]} == {"added"}
        assert plan["containers"] == {"db": "create", "web": "create"}
        assert PASSWORD not in json.dumps(plan)
        assert host.traces() == before

    def test_nothing_to_do(self, host: Host) -> None:
        host.deploy()
        before = host.traces()

        plan = host.plan()

        assert plan["changes"] is False
        assert plan["lines"][-1] == plan["verdict"]
        assert plan["verdict"].startswith("nothing to do: release 20250101T000000Z-abc serves")
        assert plan["migrations"] == {"pending": [], "unknown": ""}
        assert set(plan["containers"].values()) == {"keep"}
        assert host.traces() == before

    def test_changed_variables_are_shown_and_secrets_are_not(self, host: Host) -> None:
        edit(
            host.stack,
            HOSTS="site.test,other.test",
            KEY=CANARY * 3,
            MIRROR=f"redis://:{CANARY * 3}@cache/0",
            GONE_TOKEN=CANARY,
        )
        before = host.traces()

        plan = host.plan(migrations=[["auth.0001_initial", []], ["notes.0001_initial", []]])

        (difference,) = plan["files"]
        assert difference["path"] == ".env.local"
        assert set(difference["lines"]) == {
            "-HOSTS=site.test", "+HOSTS=site.test,other.test", " KEY: changed (secret)", "+MIRROR=redis://:***@cache/0",
            " GONE_TOKEN: added (secret)",
        }  # fmt: skip
        assert CANARY not in json.dumps(plan)
        assert plan["containers"] == {"db": "keep", "web": "recreate"}
        assert plan["migrations"]["pending"] == ["notes.0001_initial"]
        assert plan["verdict"] == "a deploy to local would change .env.local, apply 1 migration and recreate web"
        assert host.traces() == before

    def test_a_deploy_does_what_was_planned(self, host: Host) -> None:
        planned = host.plan()["containers"]
        before = host.stack.containers()

        host.deploy()

        after = host.stack.containers()
        kept = {service for service in planned if before[f"{host.stack.project}-{service}-1"] in after.values()}
        assert kept == {service for service, what in planned.items() if what == "keep"}

    @pytest.mark.parametrize(
        ("name", "containers"),
        # The database's role takes another password without a restart.
        [("database_password", {"db": "keep", "web": "keep"}), ("app_key", {"db": "keep", "web": "recreate"})],
    )
    def test_another_secret_file_is_compared_and_not_shown(
        self, host: Host, name: str, containers: dict[str, str]
    ) -> None:
        secret = host.stack.root / "secrets" / name
        secret.write_text(CANARY)
        try:
            plan = host.plan()
        finally:
            secret.write_text(PASSWORD)

        assert plan["files"] == [{"path": f"secrets/{name}", "change": "changed", "lines": []}]
        assert plan["containers"] == containers
        assert CANARY not in json.dumps(plan)
        assert PASSWORD not in json.dumps(plan)

    def test_new_service_and_other_image(self, host: Host) -> None:
        path = host.stack.root / "docker-compose.local.yml"
        text = path.read_text()
        compose = json.loads(text)
        compose["services"]["web"]["image"] = "guestbook:new"
        path.write_text(json.dumps(compose))
        try:
            plan = host.plan(migrations=None, reason="the new image is not here")
        finally:
            path.write_text(text)

        (image,) = plan["images"]
        assert (image["service"], image["new"]) == ("web", "guestbook:new")
        assert plan["migrations"]["unknown"] == "the new image is not here"
        assert plan["verdict"].endswith("recreate web (migrations are not known)")

    def test_stopped_container_would_be_started(self, host: Host) -> None:
        web = f"{host.stack.project}-web-1"
        docker("stop", "--time", "1", web)
        try:
            plan = host.plan()
        finally:
            docker("start", web)
            host.wait()

        assert plan["serves"] is False
        assert plan["verdict"] == "a deploy to local would start web"

    def test_bundle_that_arrives_cut_off_is_refused(self, host: Host) -> None:
        files = release_archive.bundle_files(host.stack.root, None)
        asked = {
            "configuration": "0" * 64, "in_place": False, "secrets": [], "environment": {}, "scratch": [],
        }  # fmt: skip

        ended = host.attempt("plan", "--json", "--request", json.dumps(asked), stdin=release_archive.pack(files, {}))

        assert ended.returncode == 1
        assert json.loads(ended.stdout)["code"] == "bundle"


class TestStatus:
    """After the plan's tests, on the same release."""

    def test_release_memory_and_disk(self, host: Host) -> None:
        ended = host.attempt("status", "--json")
        told = json.loads(ended.stdout)

        assert told["release"]["who"] == "tester@here"
        assert told["release"]["age"] < 600
        for row in told["containers"]:
            # What the container sees itself, cached files included.
            look = "cat /sys/fs/cgroup/memory.current || cat /sys/fs/cgroup/memory/memory.usage_in_bytes"
            used = int(docker("exec", row["container"], "sh", "-c", f"({look}) 2> /dev/null"))
            assert 2**20 < row["memory"] < used * 1.2
            assert row["restarts"] == 0
        assert told["backup"] is None
        assert told["certificates"] == []
        assert all(0 < disk["free"] < disk["total"] for disk in told["disks"])

    def test_screen(self, host: Host) -> None:
        screen = host.attempt("status").stdout.decode()

        assert "ready, http://" in screen.splitlines()[0]
        assert "s ago, by tester@here" in screen or "min ago, by tester@here" in screen
        assert "backup       none is known" in screen
        assert "GiB free" in screen

    def test_certificates_of_nginx(self, host: Host) -> None:
        described = json.loads((host.stack.root / "stack.json").read_text())
        folder = host.root / "shared/nginx/ssl" / described["name"]
        (folder / "1").mkdir(parents=True)
        (folder / "current").symlink_to("1")
        words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        words += ["-subj", "/CN=site.test", "-days", "30", "-keyout", "/dev/null"]
        subprocess.run([*words, "-out", str(folder / "1/fullchain.pem")], check=True, capture_output=True)
        current = host.root / "current/stack.json"
        before = current.read_text()
        facts = {"domains": ["site.test"], "uid": 101, "replicas": 1, "drain_timeout_seconds": 30}
        edge = {"services": ["db", "web", "nginx"], "edge": facts}
        current.write_text(json.dumps({**described, **edge}))
        try:
            ended = host.attempt("status", "--json")
            assert ended.returncode == 0, ended.stderr.decode()
            told = json.loads(ended.stdout)["certificates"]
            screen = host.attempt("status").stdout.decode()
            (folder / "1/fullchain.pem").write_text("nothing")
            broken = host.attempt("status").stdout.decode()
        finally:
            current.write_text(before)

        assert told == [{"name": described["name"], "days_left": 29}]
        assert f"certificate  {described['name']}: 29 days left" in screen
        assert "certificate  none that can be read" in broken
