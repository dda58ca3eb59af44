"""What stays of many releases: as much as after a few."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from kit_engine import app_image, retention, stack, throw_away
from kit_engine.docker import Docker
from kit_engine.report import Report
from support.backups import sql
from support.engine import base_image
from support.engine_stack import docker
from support.host_releases import HostReleases, demand_whole

pytestmark = [pytest.mark.engine, pytest.mark.slow]

DEPLOYS, KEEP = 20, 3
REPORT = Report("app-image", as_json=True)


def lines(*words: str) -> list[str]:
    """What a command of Docker's prints, line by line."""
    return docker(*words).splitlines()


def test_images_and_releases_are_bounded_and_volumes_stay(host: HostReleases) -> None:
    label = f"label=com.docker.compose.project={host.project}"
    volumes = lines("volume", "ls", "--quiet", "--filter", label)
    text = ""
    for number in range(DEPLOYS):
        text = f"deploy {number}"
        told = host.deploy(host.version(text), keep=KEEP)
        assert told.code == 0, told.err
        if number % 5 == 4:
            # Nothing to do: it removes nothing either.
            before = sorted(path.name for path in (host.root / "releases").iterdir())
            assert host.deploy(None, keep=KEEP).code == 0
            assert sorted(path.name for path in (host.root / "releases").iterdir()) == before
    # The one that serves, and the last good ones before it.
    kept = sorted(path.name for path in (host.root / "releases").iterdir())
    assert len(kept) == KEEP + 1
    assert len(lines("image", "ls", "--format", "{{.Tag}}", host.name)) == KEEP + 1
    assert lines("volume", "ls", "--quiet", "--filter", label) == volumes
    demand_whole(host, host.current, text)
    # What is left is whole: there is a way back over each of them.
    for number in range(KEEP):
        told = host.rollback()
        assert told.code == 0, told.err
        assert host.ask("/version") == f"deploy {DEPLOYS - 2 - number}"


def images(host: HostReleases) -> set[str]:
    """The project's images that are here."""
    return set(lines("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", host.name))


def named(host: HostReleases) -> set[str]:
    """Those that releases name whose files are here."""
    return {host.record(path.name)["image"] for path in (host.root / "releases").iterdir()}


def test_an_image_that_cannot_be_removed_is_a_warning_and_goes_with_the_next_deploy(
    host: HostReleases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        assert host.deploy(host.version(f"hindered {number}"), keep=KEEP).code == 0
    before = images(host)
    client = tmp_path / "docker"
    hinders = "[ \"$1 $2\" != 'image rm' ] || { echo hindered >&2; exit 1; }"
    client.write_text(f'#!/bin/sh\n{hinders}\nexec {shutil.which("docker")} "$@"\n')
    client.chmod(0o755)
    new = host.version("hindered 3")
    with monkeypatch.context() as patched:
        patched.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        told = host.deploy(new, keep=1)
    assert told.code == 0, told.err
    (warning,) = host.record(host.current)["warnings"]
    assert "hindered" in warning
    assert f"warning: {warning.splitlines()[0]}" in told.err
    assert images(host) == before | {new.image} > named(host)
    # Its release has no files any more.
    told = host.deploy(host.version("not hindered"), keep=1)
    assert told.code == 0, told.err
    assert not host.record(host.current)["warnings"]
    assert images(host) == named(host)


def test_a_row_of_failing_deploys_leaves_no_row_of_images(host: HostReleases) -> None:
    good = {path.name for path in (host.root / "releases").iterdir()}
    for number in range(4):
        broken = host.version(f"broken {number}", migrate="raise SystemExit('no such column')")
        assert host.deploy(broken, keep=KEEP).json["code"] == "migrate"
    told = host.deploy(host.version("refused by the gate"), problem="no style sheet", keep=KEEP)
    assert told.json["code"] == "smoke"
    # The newest is looked at.
    (newest,) = {path.name for path in (host.root / "releases").iterdir()} - good
    assert host.record(newest)["reason"] == "no style sheet"
    assert images(host) == named(host)


def test_what_was_brought_for_a_deploy_that_ended_before_its_record_goes(host: HostReleases) -> None:
    never = f"{host.name}:release-0123456789ab"
    docker("tag", base_image("redis"), never)
    retention.bring(host.root, [never])
    told = host.deploy(host.version("after it"), keep=KEEP)
    assert told.code == 0, told.err
    assert images(host) == named(host)


def test_failed_ones_push_no_good_one_out(host: HostReleases) -> None:
    earlier = host.current
    assert host.deploy(host.version("good"), keep=KEEP).code == 0
    serving = host.current
    good = {path.name for path in (host.root / "releases").iterdir()}
    broken = host.version("broken", migrate="raise SystemExit('no such column')")
    for _ in range(KEEP + 2):
        assert host.deploy(broken, keep=KEEP).code == 1
    assert host.deploy(None, keep=KEEP).code == 0
    assert good <= {path.name for path in (host.root / "releases").iterdir()}
    # From what is here: its image is asked of nobody.
    told = host.rollback()
    assert told.code == 0, told.err
    assert host.current == earlier != serving


def test_a_database_that_is_stopped_outlives_all_that_is_removed(host: HostReleases) -> None:
    """Everything of ours that removes: releases and images, old backups, containers of a minute."""
    sql(host, "INSERT INTO kit_rows (text) VALUES ('kept')")
    (container,) = host.containers()["db"]
    volume = f"{host.project}_postgres_data_prod"
    for text in ("older", "newer", "newest"):
        assert host.deploy(host.version(text), keep=KEEP).code == 0
    docker("stop", container)
    assert retention.prune(host.root, 1)[0] != []
    assert host.engine("prune-backups").code == 0
    throw_away.remove_left(Docker(stack.load(host.root)))
    assert docker("inspect", "--format", "{{.State.Running}}", container).strip() == "false"
    assert lines("volume", "ls", "--quiet", "--filter", f"name={volume}") == [volume]
    # It finds what was stopped, and removes old ones at its end.
    told = host.deploy(host.version("after it"), keep=1)
    assert told.code == 0, told.err
    assert host.containers()["db"] == [container]
    assert sql(host, "SELECT count(*) FROM kit_rows WHERE text = 'kept'") == "1"


@pytest.fixture
def name() -> Iterator[str]:
    """Name of a project whose images are removed."""
    made = f"kit_test_{uuid4().hex[:8]}"
    yield made
    for one in lines("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", made):
        docker("image", "rm", "--force", one)


def test_a_machine_that_only_builds_keeps_a_few_of_each_kind(name: str) -> None:
    others = [f"{name}:local-0123456789ab", f"{name}-other:release-0123456789ab"]
    try:
        made = [f"{name}:release-{number:012x}" for number in range(2 * app_image.KEPT_IMAGES + 1)]
        for one in [*made[1:], *others]:
            docker("tag", base_image("redis"), one)
        assert app_image.drop_older(made[1], REPORT) == []
        docker("tag", base_image("redis"), made[0])
        gone = app_image.drop_older(made[0], REPORT)
        left = lines("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", f"reference={name}*")
        assert len(gone) == len(made) - app_image.KEPT_IMAGES
        assert made[0] in left
        assert set(left) == {*made, *others} - set(gone)
    finally:
        docker("image", "rm", others[1])
