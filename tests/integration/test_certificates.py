"""Certificates on the running prod environment: another one is served without a gap, a bad one never is."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit_engine import certificate, stack, x509
from kit_engine.certificate_checks import Pair, Wanted
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from support.certificates import Issued, authorities, issue
from support.engine_stack import docker
from support.prod_stack import DOMAIN, NAME, ProdStack, bring_up, remove

pytestmark = [pytest.mark.engine, pytest.mark.slow]

CA = authorities()


@pytest.fixture(scope="module")
def prod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProdStack]:
    """The stack, up, with a certificate of our authority; each test leaves a good one in use."""
    try:
        site = bring_up(tmp_path_factory.mktemp("certificates"), {})
        assert send(site, issue([DOMAIN], CA))["ok"]
        yield site
    finally:
        remove()


def folder_of(prod: ProdStack) -> Path:
    return prod.root / "shared/nginx/ssl" / NAME


def send(prod: ProdStack, one: Issued | None, *, key: str = "", uid: int = 101) -> dict[str, Any]:
    """Install a certificate as a control node does; without one only ask."""
    request = {"name": NAME, "uid": uid, "domains": [DOMAIN]}
    given = json.dumps({"chain": one.chain, "key": key or one.key_pem}) if one else ""
    done = prod.engine("install-certificate", "--json", "--request", json.dumps(request), stdin=given)
    assert "PRIVATE KEY" not in done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def served(prod: ProdStack) -> str:
    """Serial number of what a visitor gets who trusts our authority alone."""
    context = ssl.create_default_context(cadata=CA.root)
    with (
        socket.create_connection(("127.0.0.1", prod.https_port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=DOMAIN) as connection,
    ):
        return x509.read(connection.getpeercert(binary_form=True) or b"").serial


def state(prod: ProdStack) -> tuple[str, str, set[str]]:
    """What is served, where the link leads, and which folders there are."""
    folder = folder_of(prod)
    return served(prod), str((folder / "current").readlink()), {path.name for path in folder.iterdir()}


def test_another_is_served_without_a_gap_and_without_a_new_container(prod: ProdStack) -> None:
    def look() -> str:
        return docker("inspect", "--format", "{{.Id}} {{.State.StartedAt}}", prod.container("nginx"))

    before, answers, ended = look(), Counter[object](), threading.Event()

    def visit() -> None:
        while not ended.is_set():
            try:
                answers[prod.ask("/health/live")[0].status] += 1
            except OSError as error:
                answers[repr(error)] += 1

    def wait_for_answers() -> None:
        wanted, end = answers.total() + 10, time.monotonic() + 60
        while answers.total() < wanted and time.monotonic() < end:
            time.sleep(0.05)

    visitors = [threading.Thread(target=visit) for _ in range(2)]
    for visitor in visitors:
        visitor.start()
    try:
        for _ in range(2):
            wait_for_answers()
            one = issue([DOMAIN], CA)
            told = send(prod, one)
            assert (told["ok"], told["changed"], told["certificate"]["served"]) == (True, True, True), told
            assert served(prod) == one.serial == told["certificate"]["serial"]
        wait_for_answers()
    finally:
        ended.set()
        for visitor in visitors:
            visitor.join()

    assert set(answers) == {200}
    assert answers[200] >= 30
    assert look() == before


def test_files_are_nginx_s_own_and_their_age_plays_no_role(prod: ProdStack) -> None:
    one, folder = issue([DOMAIN], CA), folder_of(prod)
    for path in folder.rglob("*"):
        os.utime(path, (2**31, 2**31), follow_symlinks=False)

    assert send(prod, one)["changed"] is True

    assert served(prod) == one.serial == str((folder / "current").readlink())
    key, chain = folder / one.serial / "privkey.pem", folder / one.serial / "fullchain.pem"
    assert (key.stat().st_uid, key.stat().st_mode & 0o777) == (101, 0o400)
    assert (chain.read_text(), chain.stat().st_mode & 0o777) == (one.chain, 0o444)

    for path in (key, chain):
        os.utime(path, (0, 0))
    log = prod.log("nginx")
    told = send(prod, one)
    assert (told["ok"], told["changed"]) == (True, False)
    assert "signal 1 (SIGHUP) received" not in prod.log("nginx")[len(log) :]


def test_the_one_before_is_kept_and_older_ones_go(prod: ProdStack) -> None:
    ones = [issue([DOMAIN], CA) for _ in range(2)]
    for one in ones:
        send(prod, one)
    assert state(prod)[2] == {"current", ones[0].serial, ones[1].serial}

    assert send(prod, ones[0])["changed"] is True
    assert served(prod) == ones[0].serial


@pytest.mark.parametrize(
    ("one", "key", "said"),
    [
        (issue([DOMAIN], CA), issue([DOMAIN], CA).key_pem, "is not the key of"),
        (issue(["other.example.org"], CA), "", f"does not cover {DOMAIN}"),
        (issue([DOMAIN], CA, days=(-9, -1)), "", "has expired"),
    ],
    ids=["key", "names", "expired"],
)
def test_a_bad_one_is_refused_and_the_old_one_served(prod: ProdStack, one: Issued, key: str, said: str) -> None:
    before = state(prod)
    told = send(prod, one, key=key)
    assert (told["ok"], told["code"]) == (False, "certificate")
    assert said in told["problem"]
    assert state(prod) == before


def test_a_key_that_nginx_cannot_read_puts_the_link_back(prod: ProdStack) -> None:
    before, log = state(prod), prod.log("nginx")

    told = send(prod, issue([DOMAIN], CA), uid=4242)

    assert (told["ok"], told["code"]) == (False, "edge_configuration")
    assert "Permission denied" in told["problem"]
    assert state(prod) == before
    assert "signal 1 (SIGHUP) received" not in prod.log("nginx")[len(log) :]


def test_one_that_is_not_served_after_all_puts_the_link_back(prod: ProdStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "SERVED_SECONDS", 2.0)
    before = state(prod)
    # Somebody's own line: nginx reads a certificate from elsewhere.
    elsewhere = folder_of(prod).parent / "elsewhere"
    site = prod.root / "shared/nginx/conf/current/conf.d/default.conf"
    kept = site.read_text()
    (folder_of(prod) / before[1]).rename(elsewhere)
    (folder_of(prod) / before[1]).symlink_to("../elsewhere")
    site.write_text(kept.replace(f"/{NAME}/current/", "/elsewhere/"))
    docker = Docker(stack.load(prod.root))
    certificate.reload_edge(docker)
    one = issue([DOMAIN], CA)
    place = certificate.Place(prod.root, NAME, 101)
    pair = Pair(one.chain, one.key_pem, "chain", "key")
    try:
        with pytest.raises(EngineError, match=f"still shows serial {before[0]}") as caught:
            certificate.install(place, pair, Wanted((DOMAIN,), trust="given"), docker)
    finally:
        site.write_text(kept)
        certificate.reload_edge(docker)
        (folder_of(prod) / before[1]).unlink()
        elsewhere.rename(folder_of(prod) / before[1])

    assert caught.value.code == "certificate_served"
    assert state(prod) == before


def test_the_link_is_all_that_a_replacement_takes(prod: ProdStack) -> None:
    one, other, log = issue([DOMAIN], CA), issue([DOMAIN], CA), prod.log("nginx")
    folder = folder_of(prod)
    send(prod, one)
    send(prod, other)
    # As if the machine had gone down right after the link was led back.
    (folder / "current").unlink()
    (folder / "current").symlink_to(one.serial)
    assert served(prod) == one.serial
    assert send(prod, None)["changed"] is False
    # No visitor's connection was closed for any of that.
    assert "signal 1 (SIGHUP) received" not in prod.log("nginx")[len(log) :]


def test_by_hand_on_the_host(prod: ProdStack, tmp_path: Path) -> None:
    one = issue([DOMAIN], CA)
    for name, text in (("chain", one.chain), ("key", one.key_pem), ("ca", one.root)):
        (tmp_path / name).write_text(text)
    words = [f"--{name}={tmp_path / name}" for name in ("chain", "key")]

    unknown = prod.engine("certificate", *words)
    done = prod.engine("certificate", *words, f"--ca={tmp_path / 'ca'}")

    assert (unknown.returncode, done.returncode) == (1, 0)
    assert f"{tmp_path / 'chain'} does not lead to a root that is trusted" in unknown.stderr
    assert f"certificate {one.serial} is served, 89 days left" in done.stdout
    assert served(prod) == one.serial
    listed = json.loads(prod.engine("certificate", "--json").stdout)
    assert [(row["current"], row["names"]) for row in listed["installed"]] == [(True, [DOMAIN]), (False, [DOMAIN])]
    assert prod.engine("certificate", words[0]).returncode == 2


def test_preflight_tells_which_is_installed(prod: ProdStack) -> None:
    one = issue([DOMAIN, "*.example.com"], CA)
    send(prod, one)
    description = json.loads((prod.root / "stack.json").read_text())
    done = prod.engine("preflight", "--json", "--request", json.dumps({"stack": description}))

    told = json.loads(done.stdout)["current"]["certificate"]

    assert (told["serial"], told["served"], told["self_signed"]) == (one.serial, True, False)
    assert told["names"] == [DOMAIN, "*.example.com"]
    assert told["sha256"] == x509.fingerprint(x509.read_all(one.chain))
