"""What the engine finds wrong with a host, before anything is started."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
from kit_control import engine_archive
from support.engine import base_image
from support.engine_stack import SmallStack, docker

pytestmark = pytest.mark.engine


class TestPorts:
    """A taken port: by what, how to choose another, and before anything is started."""

    def test_held_by_a_process(self, new_stack: SmallStack) -> None:
        with socket.create_server(("127.0.0.1", new_stack.web_port)):
            ended = new_stack.run("up", "--json")

        assert ended.code == 1
        assert f"Port {new_stack.web_port}" in ended.json["problem"]
        assert f"(pid {os.getpid()})" in ended.json["problem"]
        assert "make deploy WEB_PORT=" in ended.json["next"]
        assert new_stack.containers() == {}

    def test_held_by_another_project_s_container(self, new_stack: SmallStack, running: SmallStack) -> None:
        new_stack.web_port, new_stack.db_port = running.web_port, running.db_port
        new_stack.write()

        ended = new_stack.run("check", "--json")

        assert len(ended.json["problems"]) == 2
        assert f"container {running.project}-web-1 of Compose project {running.project}" in ended.json["problem"]
        assert f"container {running.project}-db-1" in ended.json["problem"]
        assert "DB_PORT=" in ended.json["problems"][1]["next"]

    def test_our_own_containers_hold_theirs(self, running: SmallStack) -> None:
        assert running.run("check").code == 0


class TestHost:
    """What the host lacks, all at once."""

    def test_every_problem_is_listed(self, new_stack: SmallStack) -> None:
        description = json.loads((new_stack.root / "stack.json").read_text())
        description["limits"]["min_free_bytes"] = 2**60
        new_stack.write(description=description)
        with socket.create_server(("127.0.0.1", new_stack.db_port)):
            ended = new_stack.run("check", "--json")

        assert {problem["code"] for problem in ended.json["problems"]} == {"disk", "port"}
        assert "GiB free" in ended.json["problem"]

    def test_engine_that_is_not_running(self, new_stack: SmallStack) -> None:
        ended = new_stack.run("up", "--json", DOCKER_HOST="unix:///nowhere/docker.sock")

        assert ended.json["code"] == "engine"
        assert "not running or not reachable" in ended.json["problem"]

    @pytest.mark.usefixtures("_readable_by_all")
    def test_user_without_permission_for_the_socket(self, new_stack: SmallStack) -> None:
        engine = new_stack.root / "bin/engine.pyz"
        engine_archive.write(engine)
        # The system's own Python: ours may lie in a folder that is for its owner alone.
        python = shutil.which("python3", path="/usr/bin")
        assert python is not None

        ended = new_stack.run("check", "--json", program=(python, str(engine)), user=65534, HOME="/nonexistent")

        assert ended.json["code"] == "engine_permission"
        assert "usermod -aG docker" in ended.json["next"]

    @pytest.fixture
    def _readable_by_all(self, new_stack: SmallStack, tmp_path: Path) -> None:
        for folder in (new_stack.root, tmp_path, *tmp_path.parents):
            if folder.stat().st_uid == os.getuid() and folder != Path(folder.root):
                folder.chmod(folder.stat().st_mode | 0o055)

    def test_volume_of_another_major_version_is_refused(self, new_stack: SmallStack) -> None:
        new_stack.up()
        assert new_stack.run("down").code == 0
        script = "echo 15 > /volume/PG_VERSION"
        words = ("--rm", "--network=none", "--user=0:0", "--volume", f"{new_stack.volume}:/volume", "--entrypoint=sh")
        docker("run", *words, base_image("postgres"), "-c", script)

        ended = new_stack.run("up", "--json")

        assert ended.json["code"] == "database_major"
        assert "was written by PostgreSQL 15, and" in ended.json["problem"]
        assert new_stack.containers() == {}

    def test_image_that_is_not_there_is_named(self, new_stack: SmallStack) -> None:
        description = json.loads((new_stack.root / "stack.json").read_text())
        description["database"]["image"] = "kit-base/postgres:never-built"
        new_stack.write(description=description)

        assert "kit-base/postgres:never-built" in new_stack.run("up", "--json").json["problem"]
