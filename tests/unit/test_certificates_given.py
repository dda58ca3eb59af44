"""What a user gives as a certificate, read and judged on the control node, and what is made where nothing is given."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from kit_control import certificates
from kit_control.certificates import Inputs
from kit_control.errors import KitError
from kit_engine import certificate_checks, x509
from kit_engine.certificate_checks import Wanted
from support.certificates import authorities, issue

CA = authorities()
GOOD = issue(["www.example.com"], CA)
DOMAINS = ("www.example.com", "*.example.com", "192.0.2.1")


@pytest.fixture
def given(tmp_path: Path) -> Inputs:
    """A good certificate of a private authority, as files."""
    for name, text in (("chain.pem", GOOD.chain), ("key.pem", GOOD.key_pem), ("ca.pem", CA.root)):
        (tmp_path / name).write_text(text)
    read: Callable[[str], str] = lambda name: (tmp_path / name).read_text(encoding="ascii")  # noqa: E731
    return Inputs("provided", ("www.example.com",), "chain.pem", "key.pem", "", "", "ca.pem", "prod", read)


def test_files_and_content_are_the_same(given: Inputs) -> None:
    content = replace(given, certificate_file="", key_file="", certificate=GOOD.chain, key=GOOD.key_pem)
    assert certificates.judged(given)[1] == certificates.judged(content)[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"certificate_file": ""}, "tls_mode is provided, and no certificate is given"),
        ({"key_file": ""}, "write tls_key_file: path, or vault_tls_key with ansible-vault"),
        ({"key_file": "nowhere.pem"}, "tls_key_file: nowhere.pem cannot be read: No such file"),
        ({"key": GOOD.key_pem}, "Both tls_key_file and tls_key are set"),
        ({"ca_file": ""}, "chain.pem does not lead to a root that is trusted"),
        ({"ca_file": "key.pem"}, "key.pem holds no certificate that can be read"),
        ({"domains": ("www.example.com", "api.example.com")}, "chain.pem does not cover api.example.com"),
        ({"key_file": "", "key": issue(["x"]).key_pem}, "tls_key is not the key of chain.pem"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_a_mistake_is_named_with_its_place(given: Inputs, changes: dict[str, str], words: str) -> None:
    with pytest.raises(KitError) as caught:
        certificates.judged(replace(given, **changes))  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert caught.value.code == "certificate"
    assert "PRIVATE KEY" not in str(caught.value)


def test_one_in_another_form_is_named(given: Inputs, tmp_path: Path) -> None:
    (tmp_path / "chain.pem").write_bytes(x509.read_all(GOOD.own)[0].der)
    with pytest.raises(KitError, match=r"chain.pem is no PEM text") as caught:
        certificates.judged(given)
    assert "openssl x509 -inform der -in chain.pem" in caught.value.remedy


def test_a_self_signed_one_serves_all_domains() -> None:
    pair = certificates.self_signed(DOMAINS, 365)
    (own,) = certificate_checks.judge(pair, Wanted(DOMAINS, trust="given"))
    assert own.names == DOMAINS
    assert own.self_issued
    assert certificate_checks.days_left(own.not_after) in (364, 365)


@pytest.mark.parametrize(
    ("names", "left", "kept"),
    [
        (["www.example.com"], 60, True),
        (["*.example.com"], 60, True),
        (["www.example.com"], -60, False),
        (["example.com"], 60, False),
    ],
)
def test_one_that_is_good_is_kept(names: list[str], left: int, kept: bool) -> None:
    there = {"names": names, "not_after": time.time() + left}
    assert certificates.keeps(there, ["www.example.com"], time.time()) is kept
    assert certificates.keeps({}, ["www.example.com"], time.time()) is False


THERE = {"serial": "0A", "names": ["www.example.com"], "not_after": time.time() + 86400, "self_signed": False}


@pytest.mark.parametrize(
    ("changes", "domains", "replaces", "made", "said"),
    [
        ({}, ["www.example.com"], False, False, "0A, which was given and not made by the kit, is kept"),
        ({}, ["www.example.com"], True, True, "goes out of use: tls_selfsigned_replaces is true"),
        ({}, ["www.example.com", "x.example.com"], False, True, "goes out of use: it does not cover x.example.com"),
        ({"not_after": time.time() - 60}, ["www.example.com"], False, True, "goes out of use: it expired on"),
        ({"self_signed": True}, ["www.example.com"], True, False, ""),
        ({"self_signed": True}, ["x.example.com"], False, True, ""),
    ],
    ids=["good", "good, and unwanted", "other names", "expired", "our own", "our own, other names"],
)
def test_one_that_was_given_stays_while_it_is_good_and_never_goes_in_silence(
    changes: dict[str, object], domains: list[str], replaces: bool, made: bool, said: str
) -> None:
    choice = certificates.choose({**THERE, **changes}, domains, time.time(), replaces=replaces)
    assert choice.make is made
    assert bool(choice.note + choice.warning) is bool(said)
    assert said in (choice.warning if made else choice.note)
    assert certificates.choose({}, domains, time.time(), replaces=replaces) == certificates.Choice(make=True)


def test_a_very_long_name_is_no_obstacle() -> None:
    domain = ".".join(["a" * 60, "b" * 60, "example.com"])
    certificate_checks.judge(certificates.self_signed([domain], 30), Wanted((domain,), trust="given"))


STANDING = {
    "names": ["www.example.com"],
    "not_after": time.time() + 90 * 86400,
    "self_signed": True,
    "served": True,
}


@pytest.mark.parametrize(
    ("changes", "stands"),
    [
        ({}, True),
        ({"served": False}, False),
        ({"self_signed": False}, False),
        ({"names": ["other.example.com"]}, False),
        ({"not_after": time.time() + 5 * 86400}, False),
    ],
    ids=["good", "not served", "somebody's own", "another name", "few days left"],
)
def test_only_one_that_nothing_is_to_be_said_of_stands(changes: dict[str, object], stands: bool) -> None:
    assert certificates.stands({**STANDING, **changes}, ("www.example.com",), 14) is stands
