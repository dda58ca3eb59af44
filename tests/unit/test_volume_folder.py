"""A media volume's folder is read in place only where it is sure to be the one that containers see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit_engine import command, disk, docker_socket, media_away, stack
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from support.kit import ROOT


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the engine says of a volume, and of a container that has it: this very process."""
    told: dict[str, Any] = {"Driver": "local", "Options": None, "Mountpoint": str(tmp_path / "_data"),
                            "inside": str(tmp_path / "_data"), "pid": os.getpid()}  # fmt: skip
    (tmp_path / "_data").mkdir()

    def get(path: str, **_: object) -> object:
        if path.startswith("/volumes/"):
            return told
        if path == "/containers/json":
            return [{"Id": "one", "Mounts": [{"Name": "media", "Destination": told["inside"]}]}]
        return {"State": {"Pid": told["pid"]}}

    monkeypatch.setattr(docker_socket, "get", get)
    return told


@pytest.fixture
def other_users() -> Iterator[int]:
    """A process in which users have other numbers."""
    wait = [sys.executable, "-c", "import sys; print('there', flush=True); sys.stdin.read()"]
    with subprocess.Popen(
        ["unshare", "--user", "--map-root-user", *wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout
        if running.stdout.readline() != b"there\n":
            pytest.fail("no user namespace can be made here")
        yield running.pid


def test_it_is_the_one_that_the_container_has(volume: dict[str, Any], tmp_path: Path) -> None:
    assert disk.volume_folder("media") == tmp_path / "_data"
    volume["inside"] = str(tmp_path)
    assert disk.volume_folder("media") is None


@pytest.mark.usefixtures("volume")
def test_one_that_was_led_to_another_disk_is_that(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "_data").rmdir()
    (tmp_path / "_data").symlink_to("elsewhere")
    assert disk.volume_folder("media") == tmp_path / "elsewhere"


def test_where_users_have_other_numbers_it_is_not_read(volume: dict[str, Any], other_users: int) -> None:
    volume["pid"] = other_users
    assert disk.volume_folder("media") is None


@pytest.mark.parametrize(
    ("options", "refused"),
    [(["name=seccomp,profile=builtin", "name=userns"], True), (["name=rootless"], True), (["name=cgroupns"], False)],
)
def test_restic_does_not_read_what_has_other_owners_here(
    volume: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], *, refused: bool
) -> None:
    told = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    docker = Docker(stack.read(told, tmp_path, tmp_path))
    monkeypatch.setattr(Docker, "has_volume", lambda *_: True)
    monkeypatch.setattr(command, "run", lambda *_, **__: command.Done(0, json.dumps(volume), ""))
    monkeypatch.setattr(disk, "engine_info", lambda: {"SecurityOptions": options})
    if refused:
        with pytest.raises(EngineError, match=r"has other owners here .* Nothing was changed"):
            media_away.folder_of(docker)
    else:
        assert media_away.folder_of(docker) == tmp_path / "_data"


@pytest.mark.parametrize(
    ("code", "said", "there"),
    [
        (0, "", True),
        (1, "Error: No such volume: media", False),
        (1, "Error response from daemon: get media: no such volume", False),
        (1, "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", None),
        (127, "", None),
    ],
)
def test_a_volume_that_cannot_be_asked_for_does_not_count_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: str, there: bool | None
) -> None:
    told = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    docker = Docker(stack.read(told, tmp_path, tmp_path))
    monkeypatch.setattr(docker_socket, "there", lambda _: None)
    monkeypatch.setattr(command, "run", lambda *_, **__: command.Done(code, "", said))
    if there is None:
        with pytest.raises(EngineError, match="does not tell whether volume media is there"):
            docker.has_volume("media")
    else:
        assert docker.has_volume("media") is there
