"""Fixtures that lend hosts to tests. A conftest imports what it needs: `from testbed.fixtures import fresh_host`."""

import hashlib
import os
import subprocess
from collections.abc import Iterator, Sequence

import pytest

from testbed.errors import TestbedError
from testbed.flags import DISTROS
from testbed.hosts import CHECKOUT, Host, borrowed


def chosen_distros(wish: str, commit: str) -> Sequence[str]:
    """Decide on which Debian releases the host tests run.

    Args:
        wish: `all`, or code names with commas between; empty: one in turn.
        commit: id of the commit under test, hexadecimal; decides whose turn it is, so that a repetition of
            the same commit runs on the same release.

    Returns:
        Code names.

    Raises:
        TestbedError: the wish names an unknown release.
    """
    if wish == "all":
        return DISTROS
    if not wish:
        return (DISTROS[int(commit or "0", 16) % len(DISTROS)],)
    names = tuple(wish.split(","))
    if not set(names) <= set(DISTROS):
        raise TestbedError(f"FRESH_DISTROS={wish} names an unknown release.", f"FRESH_DISTROS={','.join(DISTROS)}")
    return names


def distros() -> Sequence[str]:
    """Read the wish from FRESH_DISTROS and the turn from git.

    Returns:
        Code names for `pytest.fixture(params=...)`.
    """
    return chosen_distros(os.environ.get("FRESH_DISTROS", ""), _commit())


def turn(count: int, of: str) -> int:
    """Tell whose turn it is among several, by the commit under test: a repetition takes the same one.

    Args:
        count: how many there are.
        of: what they are; each kind has turns of its own, so that all combinations with others' come about.

    Returns:
        A number from 0 to ``count`` - 1.
    """
    return chosen_turn(count, of, _commit())


def chosen_turn(count: int, of: str, commit: str) -> int:
    """Decide as :func:`turn` does, for the id of a commit."""
    return int(hashlib.sha256(f"{of} {commit}".encode()).hexdigest(), 16) % count


def _commit() -> str:
    words = ["git", "-C", str(CHECKOUT), "rev-parse", "--quiet", "--verify", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


@pytest.fixture(scope="module", params=distros())
def fresh_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A fresh host of each chosen release, for the tests of one module."""
    with borrowed(distro=request.param) as run:
        yield run.hosts[0]
