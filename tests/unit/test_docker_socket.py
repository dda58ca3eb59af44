"""What the engine asks Docker without its client: over its socket, and of containers that run already."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kit_engine import command, docker, docker_socket, stack
from kit_engine.docker import SERVICE_LABEL, Docker
from kit_engine.errors import EngineError
from support.kit import ROOT


@contextmanager
def answering(folder: Path, monkeypatch: pytest.MonkeyPatch, *answers: bytes) -> Iterator[list[bytes]]:
    """Have a socket give such answers, one a connection; gives what was asked."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(folder / "socket"))
        listening.listen()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/socket")

        def serve() -> None:
            for answer in answers:
                accepted, _ = listening.accept()
                with accepted:
                    asked.append(accepted.recv(4096).splitlines()[0])
                    accepted.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        yield asked
        serving.join(20)
        assert not serving.is_alive()


@pytest.mark.parametrize("chosen", ["", "current", "variable", "host"])
def test_the_builder_is_that_of_the_engine_which_the_client_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)

    def client(*words: str) -> str:
        done = subprocess.run(["docker", "context", *words], capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.strip()

    client("create", "elsewhere", "--docker", "host=unix:///nowhere.sock")
    if chosen == "current":
        client("use", "elsewhere")
    elif chosen == "variable":
        monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
    elif chosen == "host":
        client("use", "elsewhere")
        monkeypatch.setenv("DOCKER_HOST", "unix:///var/run/docker.sock")
    assert docker_socket.builder() == client("inspect", "--format", "{{.Name}}")


def test_an_answer_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.dumps([{"Id": "x" * 100_000}]).encode()
    answer = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + content
    with answering(tmp_path, monkeypatch, answer) as asked:
        assert docker_socket.get("/containers/json", all="1", filters='{"label": ["a=b"]}') == json.loads(content)
    assert asked == [b"GET /containers/json?all=1&filters=%7B%22label%22%3A+%5B%22a%3Db%22%5D%7D HTTP/1.0"]


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.0 200 OK\r\n\r\n[1, ", b"HTTP/1.0 500 no\r\n\r\n[1]", b"HTTP/1.0", b"nonsense here\r\n"]
)
def test_what_is_no_answer_is_left_to_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    with answering(tmp_path, monkeypatch, answer):
        assert docker_socket.get("/containers/json") is None


def test_what_is_not_there_is_told_apart_from_what_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = (b"HTTP/1.0 200 OK\r\n\r\n{}", b"HTTP/1.0 404 Not Found\r\n\r\n{}", b"HTTP/1.0 500 no\r\n\r\n{}")
    with answering(tmp_path, monkeypatch, *answers):
        assert [docker_socket.there("/volumes/one") for _ in answers] == [True, False, None]


def item(service: str, release: str, secret: str) -> dict[str, Any]:
    """What Docker says of a container."""
    return {
        "Id": "id", "Name": "/name", "Image": "sha256:0", "State": {"Status": "running"}, "HostConfig": {},
        "Config": {
            "Image": f"site:{release}", "Labels": {SERVICE_LABEL: service},
            "Env": [f"KEY={secret}=", f"KIT_WEB_RELEASE={release}", "PATH=/bin"],
        },
    }  # fmt: skip


def test_webs_settings_are_those_of_the_very_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    found = Docker(stack.read(data, tmp_path, tmp_path / "releases/two"))
    there = [item("web", "one", "old"), item("worker", "two", "another"), item("web", "two", "new")]
    monkeypatch.setattr(Docker, "inspected", lambda _: there)
    image, environment = found.web_settings()
    assert (image, environment["KEY"]) == ("site:two", "new=")
    # Where none of it runs, Compose is asked, which has no file here.
    del there[2]
    with pytest.raises(EngineError):
        found.web_settings()


def test_composes_own_program_is_called_and_told_as_people_type_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr(docker, "PLUGIN_FOLDERS", ())
    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    compose = Docker(stack.read(data, tmp_path, tmp_path / "releases/two")).compose_command
    program = tmp_path / "cli-plugins/docker-compose"
    program.parent.mkdir()
    program.touch(mode=0o644)
    told = [compose("up", "--detach")]
    program.chmod(0o755)
    told.append(compose("up", "--detach"))
    assert [words[: words.index("--project-name")] for words in told] == [["docker", "compose"], [str(program)]]
    assert [command.readable(words) for words in told] == ["docker compose up --detach"] * 2
    # Where the client was told of other places, it knows which Compose is meant.
    (tmp_path / "config.json").write_text(json.dumps({"cliPluginsExtraDirs": ["/opt"]}))
    assert compose("up")[:2] == ["docker", "compose"]


def test_two_threads_that_ask_at_once_have_compose_read_its_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    found = Docker(stack.read(data, tmp_path, tmp_path / "releases/two"))
    program, count = tmp_path / "cli-plugins/docker-compose", tmp_path / "count"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho read >> {count}\nsleep 0.5\necho '{{\"services\": {{}}}}'\n")
    program.chmod(0o755)
    with ThreadPoolExecutor(2) as threads:
        told = list(threads.map(lambda _: found.configuration, range(2)))
    assert told == [{"services": {}}] * 2
    assert count.read_text() == "read\n"
