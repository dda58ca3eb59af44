"""Where an app finds its static files, whose a release leaves where they are, and what it says of the others."""

from __future__ import annotations

from io import StringIO

import pytest
from kit_control import variables
from kit_control.settings import IMAGE_STATIC, STATIC_ROOT, Settings
from kit_engine import releases, static_files
from kit_engine.command import Done
from kit_engine.report import Report
from support.released_host import ONE, THREE, TWO, Host


@pytest.mark.parametrize("source", ["image", "read_only"])
@pytest.mark.parametrize("edge", ["nginx", "none"])
@pytest.mark.parametrize("commands", [[["python", "manage.py", "collectstatic"]], []])
def test_an_app_reads_the_manifest_of_its_own_image_where_it_has_one_and_serves_no_files(
    source: str, edge: str, commands: list[list[str]]
) -> None:
    wanted = IMAGE_STATIC if (source, edge) == ("image", "nginx") and commands else STATIC_ROOT
    settings = Settings({"source": source, "edge": edge})
    assert variables._static_root({"build": {"commands": commands}}, settings) == wanted


@pytest.mark.parametrize(
    ("state", "is_needed"),
    [("good", True), ("rolled_back", True), ("live", True), ("running", True), ("failed", False), ("abandoned", False)],
)
def test_files_are_needed_of_what_a_rollback_may_go_to(host: Host, state: str, is_needed: bool) -> None:
    host.release(ONE)
    host.release(TWO, state=state)
    host.release(THREE)
    (host.root / releases.FOLDER / ".incoming-1").mkdir()
    assert static_files.needed(host.root, THREE) == [ONE, TWO][: 1 + is_needed]


def test_files_are_needed_of_what_serves_and_of_what_is_not_known(host: Host) -> None:
    host.release(ONE, state="abandoned")
    releases.switch(host.root, ONE)
    host.release(TWO)
    (host.root / releases.RECORDS / f"{TWO}.json").write_text("none")
    assert static_files.needed(host.root, THREE) == [ONE, TWO]


def test_what_could_not_be_removed_is_a_warning(host: Host) -> None:
    docker, told = host.release(TWO), StringIO()
    host.release(ONE)
    asked: list[tuple[str, ...]] = []

    def execute(words: tuple[str, ...]) -> Done:
        asked.append(words)
        return Done(0, "3\n[Errno 13] Permission denied: '.kit'\n", "")

    static_files.publish(docker, Report("release", as_json=False, stream=told), execute)
    assert asked == [("python", "/opt/kit/publish_static.py", "/opt/static", "/var/app/static", TWO, ONE)]
    (line,) = told.getvalue().splitlines()
    assert line.startswith("    warning: ")
    assert line.endswith("Permission denied: '.kit'")
