"""Which certificates are refused, and what is said: certificates of a private authority, judged by OpenSSL itself."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from kit_engine import certificate_checks, x509
from kit_engine.certificate_checks import Pair, Wanted
from kit_engine.errors import CheckFailed
from support.certificates import Issued, authorities, issue, key_pem

SITE = "www.example.com"
CA = authorities()
WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
GOOD = issue([SITE, "example.com"], CA)


def judge(
    one: Issued = GOOD,
    *,
    chain: str | None = None,
    key: str | None = None,
    domains: tuple[str, ...] = (SITE,),
    trust: str = "system",
    authority: str | None = None,
) -> list[x509.Certificate]:
    pair = Pair(one.chain if chain is None else chain, one.key_pem if key is None else key, "chain.pem", "key.pem")
    return certificate_checks.judge(pair, Wanted(domains, trust, one.root if authority is None else authority))


def refused(*words: str, **arguments: object) -> CheckFailed:
    """Judge what must be refused, and look for words in the message."""
    with pytest.raises(CheckFailed) as caught:
        judge(**arguments)  # type: ignore[arg-type]
    for word in words:
        assert word in str(caught.value)
    assert "PRIVATE" not in str(caught.value)
    return caught.value


def test_good_certificate_tells_what_it_is() -> None:
    own, *others = judge()
    assert own.serial == GOOD.serial
    assert own.names == (SITE, "example.com")
    assert own.key == "P-256"
    assert not own.self_issued
    assert own.not_after == GOOD.certificate.not_valid_after_utc.timestamp()
    assert own.not_before == GOOD.certificate.not_valid_before_utc.timestamp()
    assert certificate_checks.days_left(own.not_after) in (89, 90)
    assert len(others) == 1


def test_key_of_another_certificate() -> None:
    error = refused("key.pem is not the key of chain.pem", key=issue([SITE], CA).key_pem)
    assert "openssl x509 -in chain.pem -noout -pubkey" in error.remedy
    assert error.code == "certificate"


def test_missing_intermediate() -> None:
    error = refused("Test intermediate, which issued certificate 1 of 1 in it, is not known here", chain=GOOD.own)
    assert "cat own.pem intermediate.pem > fullchain.pem" in error.remedy


def test_authority_that_nobody_knows() -> None:
    said = "does not lead to a root that is trusted: Test root, which issued certificate"
    assert "tls_ca_file" in refused(f"{said} 2 of 2", authority="").remedy
    refused(f"{said} 3 of 3", chain=GOOD.chain + GOOD.root, authority="")
    refused(f"{said} 2 of 3", chain=GOOD.chain + authorities().own, authority="")


def test_another_authority_of_the_same_name() -> None:
    refused("does not lead to a root that is trusted", authority=authorities().root)


def test_chain_in_the_wrong_order() -> None:
    error = refused("begins with another certificate than the site's own, which is number 2", chain=_turned(GOOD))
    assert "put the site's own certificate first" in error.remedy


def _turned(one: Issued) -> str:
    return one.chain.removeprefix(one.own) + one.own


def test_certificate_of_the_past_and_of_the_future() -> None:
    refused("chain.pem has expired on", one=issue([SITE], CA, days=(-3, -1)))
    refused("chain.pem is not valid before", "date -u", one=issue([SITE], CA, days=(1, 9)))


def test_expired_intermediate() -> None:
    root = issue(["Test root"], authority=True)
    old = issue(["Test intermediate"], root, authority=True, days=(-9, -1))
    refused("certificate 2 of the chain, has expired", one=issue([SITE], old))


def test_expired_root() -> None:
    old = issue(["Test root"], authority=True, days=(-9, -1))
    refused("a certificate that leads to its root", one=issue([SITE], old))


@pytest.mark.parametrize(
    ("names", "domains", "missing"),
    [
        ([SITE], [SITE, "example.com", "api.example.com"], "example.com, api.example.com"),
        (["*.example.com"], [SITE, "API.example.com"], ""),
        (["*.example.com"], ["example.com"], "example.com"),
        (["*.example.com"], ["a.b.example.com"], "a.b.example.com"),
        (["*.example.com"], ["*.example.com"], ""),
        ([SITE], ["*.example.com"], "*.example.com"),
        (["192.0.2.1", "2001:db8::1"], ["192.0.2.1", "2001:db8::1"], ""),
        (["localhost"], ["localhost"], ""),
    ],
)
def test_names(names: list[str], domains: list[str], missing: str) -> None:
    one = issue(names, CA)
    if missing:
        refused(f"does not cover {missing}; it is for {', '.join(names)}", one=one, domains=tuple(domains))
    else:
        judge(one, domains=tuple(domains))


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (WEAK, "RSA 1024"),
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
        (ec.generate_private_key(ec.SECP521R1()), "P-521"),
        (ec.generate_private_key(ec.SECP256K1()), "an unusual curve"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_key_that_browsers_refuse(key: ec.EllipticCurvePrivateKey, kind: str) -> None:
    refused(f"has a key ({kind}) that browsers refuse", one=issue([SITE], CA, key=key))


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())])
def test_other_keys_that_are_good(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
    judge(issue([SITE], CA, key=key))


def test_locked_key() -> None:
    error = refused("key.pem is locked with a password", key=key_pem(GOOD.key, "secret"))
    assert "openssl pkey -in key.pem" in error.remedy


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        ("", "chain.pem holds no certificate in PEM form"),
        ("garbage", "chain.pem holds no certificate in PEM form"),
        (GOOD.key_pem, "were the two swapped?"),
        (GOOD.own.replace("MI", "!!", 1), "chain.pem holds a damaged certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "chain.pem holds a damaged certificate"),
        (x509.read_all(GOOD.own)[0].pem[:300] + "\n-----END CERTIFICATE-----", "chain.pem holds a damaged certificate"),
    ],
)
def test_garbage_for_a_chain(chain: str, words: str) -> None:
    refused(words, chain=chain)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", "key.pem holds no private key in PEM form"),
        (GOOD.own, "key.pem holds no private key in PEM form"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "cannot be loaded"),
    ],
)
def test_garbage_for_a_key(key: str, words: str) -> None:
    refused(words, key=key)


def test_everything_is_told_at_once() -> None:
    one = issue(["other.example.org"], CA, days=(-3, -1), key=WEAK)
    error = refused("does not cover", "has expired", "RSA 1024", "is not the key of", one=one, key=GOOD.key_pem)
    assert len(error.problems) == 4


def test_self_signed_is_refused_unless_it_is_named_as_its_own_authority() -> None:
    one = issue([SITE])
    assert "tls_ca_file" in refused("is self-signed", one=one, authority="").remedy
    assert judge(one)[0].self_issued


def test_the_topmost_is_believed_where_another_has_judged_it() -> None:
    for one in (GOOD, issue([SITE])):
        judge(one, trust="given", authority="")
    refused("is not the key of", key=issue([SITE]).key_pem, trust="given", authority="")
    refused("does not lead to", chain=GOOD.own + authorities().own, trust="given", authority="")


def test_remarks_and_line_ends_make_no_other_chain() -> None:
    text = "subject=x\r\n" + GOOD.chain.replace("\n", "\r\n") + "the end"
    assert x509.fingerprint(judge(chain=text)) == x509.fingerprint(judge())
    assert x509.fingerprint(judge()) != x509.fingerprint(judge(issue([SITE], CA)))


@pytest.mark.parametrize("serial", [1, 0x7F, 0x80, 0xFF, 0x0ABC])
def test_serial_is_written_as_openssl_does(serial: int) -> None:
    one = issue([SITE], CA, serial=serial)
    assert judge(one)[0].serial == one.serial == f"{serial:X}".zfill(4 if serial > 0xFF else 2)


def test_dates_after_2049_are_read() -> None:
    far = judge(issue([SITE], issue(["Test root"], authority=True, days=(-1, 20000)), days=(-1, 10000)))
    assert certificate_checks.days_left(far[0].not_after) in (9999, 10000)
