"""Certificates on a host where nginx does not run yet: files, link, and what is kept."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kit_engine import certificate, prepare
from kit_engine.certificate import Place
from kit_engine.certificate_checks import Pair, Wanted
from kit_engine.errors import CheckFailed, EngineError
from support.certificates import Issued, authorities, issue
from support.engine_stack import PACKAGES

SITE = "www.example.com"
CA = authorities()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A deploy root that is not there yet, under a umask that lets nobody else in."""
    before = os.umask(0o077)
    yield Place(tmp_path / "srv/site", "site", os.geteuid())
    os.umask(before)


def install(place: Place, one: Issued, *, key: str = "") -> bool:
    pair = Pair(one.chain, key or one.key_pem, "chain.pem", "key.pem")
    return certificate.install(place, pair, Wanted((SITE,), authority=one.root), None)


def folders(place: Place) -> set[str]:
    return {path.name for path in place.folder.iterdir()}


def test_first_one(place: Place) -> None:
    one = issue([SITE], CA)
    assert certificate.facts(place, None) == {}

    assert install(place, one) is True

    assert str(place.link.readlink()) == one.serial
    modes = {path.name: path.stat().st_mode & 0o777 for path in place.link.iterdir()}
    assert modes == {"fullchain.pem": 0o444, "privkey.pem": 0o400}
    for folder in (place.folder / one.serial, place.folder, place.folder.parent, place.folder.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o755
    assert (place.link / "privkey.pem").read_text() == one.key_pem
    told = certificate.facts(place, None)
    assert (told["serial"], told["names"], told["self_signed"], told["served"]) == (one.serial, [SITE], False, None)
    assert install(place, one) is False


def test_a_refused_one_leaves_nothing(place: Place) -> None:
    with pytest.raises(CheckFailed):
        install(place, issue([SITE], CA), key=issue([SITE]).key_pem)
    assert not place.root.exists()


def test_two_with_one_serial_number(place: Place) -> None:
    """An authority that counts from 1 again, or the same certificate with other ones behind it."""
    first, second = (issue([SITE], CA, serial=1) for _ in range(2))
    assert [install(place, one) for one in (first, second, second, first)] == [True, True, False, True]
    assert (place.link / "fullchain.pem").read_text() == first.chain
    assert len(folders(place)) == 3


def test_only_the_one_before_stays_and_leftovers_go(place: Place) -> None:
    ones = [issue([SITE], CA) for _ in range(3)]
    install(place, ones[0])
    (place.folder / ".incoming-cut-off").mkdir()
    for one in ones[1:]:
        install(place, one)
    assert folders(place) == {"current", ones[1].serial, ones[2].serial}
    assert [row["current"] for row in certificate.installed(place)] == [True, False]


def test_a_key_that_was_lost_comes_again(place: Place) -> None:
    one = issue([SITE], CA)
    install(place, one)
    (place.folder / one.serial / "privkey.pem").unlink()
    assert install(place, one) is True
    assert (place.link / "privkey.pem").read_text() == one.key_pem


@pytest.mark.skipif(os.geteuid() != 0, reason="hands a file to another user, which only root can")
def test_the_key_belongs_to_nginx(place: Place) -> None:
    other = Place(place.root, place.name, 101)
    install(other, issue([SITE], CA))
    assert (other.link / "privkey.pem").stat().st_uid == 101


def test_without_root_a_key_of_another_user_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(EngineError, match="only root can hand it over"):
        install(place, issue([SITE], CA))
    assert not place.root.exists()


def test_installs_at_once_take_turns(place: Place) -> None:
    ones = [issue([SITE], CA) for _ in range(6)]
    with ThreadPoolExecutor(len(ones)) as pool:
        assert list(pool.map(lambda one: install(place, one), ones)) == [True] * len(ones)
    last = str(place.link.readlink())
    assert last in {one.serial for one in ones}
    # The last one and the one before; nothing of the others, and nothing half-done.
    assert len(folders(place) - {"current"}) == 2
    assert {"current", last} < folders(place)


HOLD = """
import pathlib, sys
from kit_engine import certificate
place = certificate.Place(pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
with certificate.turn(place):
    print("mine", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def busy(place: Place) -> Iterator[subprocess.Popen[str]]:
    """Another process, which installs a certificate and does not end."""
    install(place, issue([SITE], CA))
    words = [sys.executable, "-c", HOLD, str(place.root), place.name, str(place.uid)]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES)}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        yield process
        process.kill()


@pytest.mark.usefixtures("busy")
def test_who_waits_in_vain_changes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "TURN_SECONDS", 0.2)
    before, one = folders(place), issue([SITE], CA)
    with pytest.raises(EngineError, match="has not ended within") as caught:
        install(place, one)
    assert caught.value.code == "locked"
    assert folders(place) == before


def test_a_killed_install_is_in_nobodys_way(place: Place, busy: subprocess.Popen[str]) -> None:
    one = issue([SITE], CA)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(install, place, one)
        time.sleep(0.3)
        assert not waiting.done()
        busy.kill()
        assert waiting.result(timeout=10) is True
    assert str(place.link.readlink()) == one.serial


def test_the_place_for_challenges_is_open_to_nginx(place: Place) -> None:
    for name in prepare.EDGE_FOLDERS:
        prepare.public_folder(place.root, name)
    folder = place.root / "shared/nginx/acme/.well-known/acme-challenge"
    assert [one.stat().st_mode & 0o777 for one in (folder, *folder.parents[:4])] == [0o755] * 5
