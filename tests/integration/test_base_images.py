"""Base images: the interface of the official ones that the kit uses, and where they come from."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kit_engine.base_images import resolve
from kit_engine.errors import EngineError
from support import registry
from support.engine import base_image, base_images
from support.engine_stack import docker

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PASSWORD = "p'a$s \"w\\ö"  # noqa: S105 - made up
# A first start prepares the cluster in 1 s here.
START_SECONDS = 60


class Postgres:
    """A container of the database's image with a volume of its own."""

    def __init__(self) -> None:
        self.name = f"kit-test-{uuid4().hex[:8]}"

    def start(self, *options: str) -> None:
        """Run the image."""
        volume = f"{self.name}:/var/lib/postgresql/data"
        words = ("--detach", "--network=none", "--name", self.name, "--volume", volume)
        docker("run", *words, *options, base_image("postgres"))

    def wait(self) -> None:
        """Wait until it takes connections over TCP."""
        end = time.monotonic() + START_SECONDS
        words = ["docker", "exec", self.name, "pg_isready", "--quiet", "--host=127.0.0.1"]
        while subprocess.run(words, check=False).returncode:
            assert time.monotonic() < end, self.log()
            time.sleep(0.1)

    def ask(self, statement: str, *options: str) -> str:
        """Run a statement; its output."""
        return docker(
            "exec", "--env", f"PGPASSWORD={PASSWORD}", self.name, "psql", "--no-psqlrc", "-tA", *options,
            "--command", statement,
        ).strip()  # fmt: skip

    def log(self) -> str:
        """Everything it said."""
        words = ["docker", "logs", self.name]
        return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout

    def ended(self) -> int:
        """Wait for its end; its exit code."""
        return int(docker("wait", self.name))

    def remove(self) -> None:
        """Remove container and volume."""
        subprocess.run(["docker", "rm", "--force", self.name], capture_output=True, check=False)
        subprocess.run(["docker", "volume", "rm", "--force", self.name], capture_output=True, check=False)


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """The database's image, not started."""
    container = Postgres()
    try:
        yield container
    finally:
        container.remove()


class TestPostgres:
    """The database image's contract, whichever source it came from."""

    def test_environment_init_scripts_restart_and_stop(self, postgres: Postgres, tmp_path: Path) -> None:
        (tmp_path / "password").write_text(PASSWORD)
        (tmp_path / "init").mkdir()
        (tmp_path / "init/1.sql").write_text("CREATE TABLE seeded (n int); INSERT INTO seeded VALUES (42);")
        for path in (tmp_path, tmp_path / "init"):
            path.chmod(0o755)
        (tmp_path / "password").chmod(0o444)
        postgres.start(
            "--env=POSTGRES_USER=owner", "--env=POSTGRES_DB=site", "--env=POSTGRES_PASSWORD_FILE=/run/secrets/password",
            f"--volume={tmp_path}/password:/run/secrets/password:ro",
            f"--volume={tmp_path}/init:/docker-entrypoint-initdb.d:ro",
        )  # fmt: skip
        postgres.wait()

        by_network = ("--host=127.0.0.1", "--username=owner", "--dbname=site")
        assert postgres.ask("SELECT n FROM seeded", *by_network) == "42"
        assert postgres.ask("SHOW server_version_num", *by_network).startswith("16")
        assert postgres.ask("SHOW server_encoding", *by_network) == "UTF8"
        assert docker("exec", postgres.name, "stat", "-c", "%u", "/proc/1").strip() == "999"
        docker("stop", "--time=30", postgres.name)
        assert int(docker("inspect", "--format={{.State.ExitCode}}", postgres.name)) == 0
        docker("start", postgres.name)
        postgres.wait()
        assert postgres.ask("SELECT n FROM seeded", *by_network) == "42"
        assert "was not properly shut down" not in postgres.log()

    def test_every_client_program_is_there(self) -> None:
        programs = "pg_dump pg_restore pg_dumpall psql pg_basebackup pg_isready createdb"
        script = f"for name in {programs}; do $name --version || exit 1; done"
        told = docker("run", "--rm", "--network=none", "--entrypoint=sh", base_image("postgres"), "-c", script)
        assert told.count(" 16.") == 7

    def test_without_a_password_it_refuses(self, postgres: Postgres) -> None:
        postgres.start()
        assert postgres.ended() != 0
        assert "POSTGRES_PASSWORD" in postgres.log()

    def test_both_forms_of_a_value_are_refused(self, postgres: Postgres) -> None:
        postgres.start("--env=POSTGRES_PASSWORD=a", "--env=POSTGRES_PASSWORD_FILE=/etc/hostname")
        assert postgres.ended() != 0
        assert "POSTGRES_PASSWORD_FILE" in postgres.log()

    def test_a_first_start_that_is_killed_is_begun_anew(self, postgres: Postgres) -> None:
        for delay in (0.2, 0.5, 0.8):
            postgres.start("--env=POSTGRES_PASSWORD=a")
            time.sleep(delay)
            docker("rm", "--force", postgres.name)
        postgres.start("--env=POSTGRES_PASSWORD=a")
        postgres.wait()
        assert postgres.ask("SELECT 1", "--username=postgres") == "1"


def test_redis_and_nginx_start_without_privileges() -> None:
    bare = ("--rm", "--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only")
    script = "redis-server --version && (redis-server --dir /tmp --daemonize yes >/dev/null; sleep 0.5; redis-cli ping)"
    words = ("--tmpfs=/tmp", "--user=999:999", "--entrypoint=sh")
    assert "PONG" in docker("run", *bare, *words, base_image("redis"), "-c", script)
    # Paths inside the container.
    folders = [f"--tmpfs={path}:uid=101" for path in ("/run", "/tmp", "/var/cache/nginx", "/var/lib/nginx")]  # noqa: S108
    docker("run", *bare, "--user=101:101", *folders, "--entrypoint=nginx", base_image("nginx"), "-t")


def test_facts_of_the_images_are_recorded() -> None:
    for name, facts in base_images().items():
        assert facts["id"] == docker("image", "inspect", "--format={{.Id}}", facts["ref"]).strip()
        assert facts["libc"].startswith(("glibc 2.", "musl"))
        assert facts["uid"] == {"python": 0, "postgres": 999, "redis": 999, "nginx": 101}[name]


class TestSource:
    """auto decides once; nothing falls back behind anybody's back."""

    @pytest.fixture
    def tagged(self, tmp_path: Path) -> Iterator[str]:
        """A registry with the images `<host>/redis:1` and `<host>/postgres:1`; gone after the test."""
        with registry.running(tmp_path) as host:
            for name in ("redis", "postgres"):
                docker("tag", base_image(name), f"{host}/{name}:1")
                docker("push", "--quiet", f"{host}/{name}:1")
                docker("rmi", f"{host}/{name}:1")
            yield host
        found = docker("image", "ls", "--digests", "--format={{.Repository}}@{{.Digest}}").split()
        mine = [ref for ref in found if ref.startswith(f"{host}/") and not ref.endswith("<none>")]
        if mine:
            docker("rmi", "--force", *mine)

    def request(self, tmp_path: Path, host: str, **changes: Any) -> resolve.Request:
        """Ask for redis and postgres from a registry."""
        refs = {name: f"{host}/{name}:1" for name in ("redis", "postgres")}
        asked: dict[str, Any] = {"wanted": list(refs), "source": "auto", "registry_refs": refs}
        return resolve.Request(record=tmp_path / "record.json", **{**asked, **changes})

    def test_a_registry_in_reach_is_used_and_kept_when_it_is_gone(self, tagged: str, tmp_path: Path) -> None:
        said: list[str] = []
        answer = resolve.ensure(self.request(tmp_path, tagged), said.append)
        assert answer["source"] == "registry"
        assert {facts["ref"].partition("@sha256:")[0] for facts in answer["images"].values()} == {
            f"{tagged}/redis", f"{tagged}/postgres",
        }  # fmt: skip
        away = self.request(tmp_path, tagged)

        assert resolve.ensure(away, said.append)["changed"] is False

        # The image is lost, and the registry that it came from is out of reach: no other image takes its place.
        record = json.loads(away.record.read_text())
        docker("rmi", record["images"]["redis"]["ref"])
        elsewhere = {**record["images"]["redis"], "wanted": "127.0.0.1:1/redis:1"}
        away.record.write_text(json.dumps({**record, "images": {**record["images"], "redis": elsewhere}}))
        gone = self.request(tmp_path, "127.0.0.1:1", wanted=["redis"])
        with pytest.raises(EngineError, match="The registry cannot be used") as caught:
            resolve.ensure(gone, said.append)
        assert "base_images_registry" in caught.value.remedy

    def test_out_of_reach_it_says_so_and_builds_from_packages(self, tmp_path: Path) -> None:
        said: list[str] = []
        answer = resolve.ensure(self.request(tmp_path, "127.0.0.1:1"), said.append)
        assert answer["source"] == "packages"
        assert any("the registry cannot be used" in line and "building from packages" in line for line in said)

    def test_a_database_that_is_chosen_by_name_never_falls_back(self, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match="unless that is chosen by name"):
            resolve.ensure(self.request(tmp_path, "127.0.0.1:1", database_by_choice=True), print)
        assert not (tmp_path / "record.json").exists()

    def test_another_database_image_under_a_volume_is_refused(self, tagged: str, tmp_path: Path) -> None:
        volume = f"kit-test-{uuid4().hex[:8]}"
        asked = self.request(tmp_path, tagged, wanted=["postgres"], database_volume=volume)
        resolve.ensure(asked, print)
        docker("volume", "create", volume)
        before = asked.record.read_text()
        try:
            other = self.request(tmp_path, tagged, wanted=["postgres"], source="packages", database_volume=volume)
            with pytest.raises(EngineError, match="source registry → packages") as caught:
                resolve.ensure(other, print)
        finally:
            docker("volume", "rm", volume)
        assert "backup and restore" in caught.value.remedy
        assert asked.record.read_text() == before

    def test_a_lost_record_of_a_volumes_image_is_not_guessed(self, tmp_path: Path) -> None:
        volume = f"kit-test-{uuid4().hex[:8]}"
        docker("volume", "create", volume)
        try:
            with pytest.raises(EngineError, match="which said what image wrote it, is gone"):
                resolve.ensure(self.request(tmp_path, "127.0.0.1:1", database_volume=volume), print)
            named = self.request(tmp_path, "127.0.0.1:1", source="packages", database_volume=volume)
            assert resolve.ensure(named, print)["source"] == "packages"
        finally:
            docker("volume", "rm", volume)

    def test_nothing_to_do_is_known_in_under_a_second(self, tmp_path: Path) -> None:
        asked = self.request(tmp_path, "127.0.0.1:1")
        resolve.ensure(asked, print)
        started = time.monotonic()
        assert resolve.ensure(asked, print)["changed"] is False
        assert time.monotonic() - started < 1

    def test_a_damaged_record_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "record.json").write_text("{")
        with pytest.raises(EngineError, match="is damaged"):
            resolve.ensure(self.request(tmp_path, "127.0.0.1:1"), print)
