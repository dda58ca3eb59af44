"""Small real stacks for the engine's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import host_releases
from support.engine_stack import SmallStack, install_packages, make
from support.host_releases import HostReleases, Released


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's Python packages, mounted into the base image."""
    folder = tmp_path_factory.mktemp("site")
    install_packages(folder)
    return folder


@pytest.fixture
def new_stack(tmp_path: Path, site: Path) -> Iterator[SmallStack]:
    """A stack that is written but not up."""
    stack = make(tmp_path, site)
    stack.write()
    try:
        yield stack
    finally:
        stack.remove()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, site: Path) -> Iterator[SmallStack]:
    """A stack that is up; tests that change it bring it back."""
    stack = make(tmp_path_factory.mktemp("running"), site)
    stack.write()
    try:
        stack.up()
        yield stack
    finally:
        stack.remove()


@pytest.fixture
def cleaned(running: SmallStack) -> Iterator[SmallStack]:
    """The running stack, written and brought back to what it was after the test."""
    settings = running.source / "site_settings.py"
    before = settings.read_text()
    yield running
    settings.write_text(before)
    running.write()
    running.up()


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Released]:
    """A deploy root with one release; removed whatever happens."""
    host = host_releases.make(tmp_path_factory.mktemp("releases"))
    try:
        good = host.version("one")
        told = host.deploy(good)
        assert told.code == 0, told.err
        yield Released(host, good, host.version("two"))
    finally:
        host.remove()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostReleases]:
    """A deploy root with one release that serves; removed whatever happens."""
    made = host_releases.make(tmp_path_factory.mktemp("host"))
    try:
        told = made.deploy(made.version("one"))
        assert told.code == 0, told.err
        yield made
    finally:
        made.remove()
