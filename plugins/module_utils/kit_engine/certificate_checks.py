"""Whether a certificate with its key can serve a site; asked on the control node before a host is touched, and there.

The last word has a TLS handshake in memory: OpenSSL itself says whether a client would take the chain.
"""

from __future__ import annotations

import os
import ssl
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from kit_engine import x509
from kit_engine.errors import CheckFailed, EngineError
from kit_engine.x509 import Certificate

DAY_SECONDS = 86400
# RFC 8446 wants ECDSA on P-256 and RSA from every client; 2048 bits are the CA/Browser Forum's least, and browsers
# know neither Ed25519 nor, all of them, P-521.
GOOD_CURVES, FEWEST_RSA_BITS = ("P-256", "P-384"), 2048
# OpenSSL's X509_V_FLAG_PARTIAL_CHAIN, which Python names from 3.10 on: the topmost that was given needs no issuer.
_PARTIAL_CHAIN = 0x80000
# OpenSSL's words for what a client refuses (x509_vfy.h).
_OTHER_ISSUER, _NOT_YET_VALID, _EXPIRED = 7, 9, 10
_SELF_SIGNED, _UNKNOWN_ROOT, _NO_ISSUER, _NO_SIGNER = 18, 19, 20, 21
_BROKEN = (_OTHER_ISSUER, _UNKNOWN_ROOT, _NO_ISSUER, _NO_SIGNER)
_WEAK = (66, 67, 68)
# More flights than any handshake has.
_ROUNDS = 10


@dataclass(frozen=True)
class Pair:
    """A certificate with its key, as somebody gave them.

    Attributes:
        chain: PEM text: the site's own certificate first, then those that lead to a root.
        key: PEM text of the private key.
        chain_place: where the chain stands, for messages; ``key_place`` likewise.
    """

    chain: str
    key: str
    chain_place: str
    key_place: str


@dataclass(frozen=True)
class Wanted:
    """What a certificate is for.

    Attributes:
        domains: host names of the site; ``*.example.com`` wants exactly that.
        trust: ``system``: whom this machine trusts, and ``authority``. ``given``: whatever stands last in the chain,
            since somebody else judged it.
        authority: PEM text of a private certificate authority; empty for none.
        authority_place: where that stands, for messages.
    """

    domains: tuple[str, ...]
    trust: str = "system"
    authority: str = ""
    authority_place: str = "the authority"


def judge(pair: Pair, wanted: Wanted, now: Optional[float] = None) -> list[Certificate]:
    """Refuse a certificate that a client would not take.

    Args:
        pair: what was given.
        wanted: what for.
        now: seconds since 1970; default: this moment.

    Returns:
        The chain, the site's own first.

    Raises:
        CheckFailed: with everything that is wrong; alone where nothing else can be judged.
    """
    chain = _read(pair)
    _read_authority(wanted)
    expired = list(_times(pair, chain, time.time() if now is None else now))
    problems = [*_names(pair, chain[0], wanted.domains), *expired, *_strength(pair, chain[0])]
    # Of several things OpenSSL names the one that it met first; a time that is told already is not told again.
    refused = _handshake(pair, chain, wanted)
    if refused and not (expired and refused.code == "certificate_time"):
        problems.append(refused)
    if problems:
        raise CheckFailed(problems)
    return chain


def covers(names: Iterable[str], domain: str) -> bool:
    """Tell whether a certificate's names hold a domain; a wildcard stands for one label (RFC 6125)."""
    domain = domain.lower()
    _first, _dot, rest = domain.partition(".")
    return domain in names or (not domain.startswith("*.") and f"*.{rest}" in names)


def missing_names(names: Sequence[str], domains: Iterable[str]) -> list[str]:
    """Name the domains that a certificate does not cover."""
    return [domain for domain in domains if not covers(names, domain)]


def days_left(not_after: float, now: Optional[float] = None) -> int:
    """Count the whole days until a certificate expires; negative when it has."""
    return int((not_after - (time.time() if now is None else now)) // DAY_SECONDS)


def date(moment: float) -> str:
    """Write a moment in UTC, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))


def _read(pair: Pair) -> list[Certificate]:
    """Read chain and key; what keeps them from being read at all is told alone."""
    look = f"openssl x509 -in {pair.chain_place} -noout -text    (does it read?)"
    try:
        chain = x509.read_all(pair.chain)
    except ValueError as error:
        raise CheckFailed([_problem(f"{pair.chain_place} holds a damaged certificate: {error}.", look)]) from None
    if not chain:
        swapped = " It holds a private key: were the two swapped?" if "PRIVATE KEY-----" in pair.chain else ""
        raise CheckFailed([_problem(f"{pair.chain_place} holds no certificate in PEM form.{swapped}", look)])
    if "PRIVATE KEY-----" not in pair.key:
        raise CheckFailed(
            [
                _problem(
                    f"{pair.key_place} holds no private key in PEM form.",
                    f"openssl pkey -in {pair.key_place} -noout    (does it read?)",
                )
            ]
        )
    return chain


def _read_authority(wanted: Wanted) -> None:
    try:
        readable = not wanted.authority or bool(x509.read_all(wanted.authority))
    except ValueError:
        readable = False
    if not readable:
        look = f"openssl x509 -in {wanted.authority_place} -noout -text    (does it read?)"
        raise CheckFailed([_problem(f"{wanted.authority_place} holds no certificate that can be read.", look)])


def _names(pair: Pair, own: Certificate, domains: Sequence[str]) -> Iterator[EngineError]:
    missing = missing_names(own.names, domains)
    if missing:
        yield _problem(
            f"{pair.chain_place} does not cover {', '.join(missing)}; it is for "
            f"{', '.join(own.names) or 'no host name at all'}.",
            f"have one issued that names {', '.join(missing)} too, or correct app_domains",
        )


def _times(pair: Pair, chain: Sequence[Certificate], now: float) -> Iterator[EngineError]:
    for number, one in enumerate(chain):
        which = pair.chain_place if number == 0 else f"{pair.chain_place}, certificate {number + 1} of the chain,"
        if now > one.not_after:
            yield _problem(f"{which} has expired on {date(one.not_after)}.", "renew it at its issuer")
        elif now < one.not_before:
            yield _problem(
                f"{which} is not valid before {date(one.not_before)}.",
                "date -u    (is the clock right?), or wait until then",
            )


def _strength(pair: Pair, own: Certificate) -> Iterator[EngineError]:
    kind, _, bits = own.key.partition(" ")
    good = int(bits) >= FEWEST_RSA_BITS if kind == "RSA" else own.key in GOOD_CURVES
    if not good:
        yield _problem(
            f"{pair.chain_place} has a key ({own.key}) that browsers refuse; wanted: RSA of {FEWEST_RSA_BITS} bits or "
            f"more, {' or '.join(GOOD_CURVES)}.",
            "openssl ecparam -genkey -name prime256v1 -noout -out privkey.pem    (then have a certificate issued)",
        )


def _handshake(pair: Pair, chain: Sequence[Certificate], wanted: Wanted) -> Optional[EngineError]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # How strong it is was judged apart; here a weak one shall be loaded too, so that the rest is told with it.
    server.set_ciphers("DEFAULT:@SECLEVEL=0")
    refused = _load(server, pair, chain)
    if refused:
        return refused
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    if wanted.trust == "given":
        client.verify_flags = ssl.VerifyFlags(client.verify_flags | _PARTIAL_CHAIN)
        client.load_verify_locations(cadata=chain[-1].pem)
    else:
        client.load_default_certs()
        if wanted.authority:
            client.load_verify_locations(cadata=wanted.authority)
    try:
        _shake_hands(client, server)
    except ssl.SSLCertVerificationError as error:
        return _refused(pair, chain, error)
    except ssl.SSLError as error:
        return _problem(
            f"{pair.chain_place} cannot serve TLS: OpenSSL says {error.reason}.",
            f"openssl x509 -in {pair.chain_place} -noout -text",
        )
    return None


def _load(server: ssl.SSLContext, pair: Pair, chain: Sequence[Certificate]) -> Optional[EngineError]:
    asked = []

    def no_password() -> str:
        asked.append(True)
        return ""

    try:
        with _as_file("".join(one.pem for one in chain)) as own, _as_file(pair.key) as key:
            server.load_cert_chain(own, key, password=no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        if asked:
            return _problem(
                f"{pair.key_place} is locked with a password, which nginx could not give.",
                f"openssl pkey -in {pair.key_place} -out privkey.pem    (writes it without; ansible-vault can lock it)",
            )
        reason = str(getattr(error, "reason", "") or error)
        # The second word: a key of another kind, such as RSA for a certificate on P-256.
        if "MISMATCH" in reason or "NO_CERTIFICATE_ASSIGNED" in reason:
            return _mismatch(pair, chain)
        return _problem(
            f"{pair.key_place} and {pair.chain_place} cannot be loaded: OpenSSL says {reason}.",
            f"openssl pkey -in {pair.key_place} -noout    (does it read?)",
        )
    return None


def _mismatch(pair: Pair, chain: Sequence[Certificate]) -> EngineError:
    for number, one in enumerate(chain[1:], 2):
        other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            with _as_file(one.pem) as own, _as_file(pair.key) as key:
                other.load_cert_chain(own, key)
        except ssl.SSLError:
            continue
        order = _problem(
            f"{pair.chain_place} begins with another certificate than the site's own, which is number {number} in it.",
            "put the site's own certificate first, then those that lead to the root",
        )
        # Alone: whatever else was found is about that other certificate.
        raise CheckFailed([order])
    return _problem(
        f"{pair.key_place} is not the key of {pair.chain_place}.",
        f"openssl x509 -in {pair.chain_place} -noout -pubkey; openssl pkey -in {pair.key_place} -pubout"
        "    (these two must be equal: give the ones that belong together)",
    )


def _refused(pair: Pair, chain: Sequence[Certificate], error: ssl.SSLCertVerificationError) -> EngineError:
    code = error.verify_code
    if code in (_NOT_YET_VALID, _EXPIRED):
        problem = f"{pair.chain_place}: {error.verify_message}: a certificate that leads to its root."
        return EngineError("certificate_time", problem, "renew it at its issuer")
    if code == _SELF_SIGNED:
        return _problem(
            f"{pair.chain_place} is self-signed, so nobody trusts it.",
            "tls_mode: selfsigned    (the kit makes one by itself), or name it as its own authority: tls_ca_file",
        )
    if code in _BROKEN:
        number, issuer = _loose_end(chain)
        return _problem(
            f"{pair.chain_place} does not lead to a root that is trusted: {issuer}, which issued certificate "
            f"{number} of {len(chain)} in it, is not known here (OpenSSL: {error.verify_message}).",
            f"append the certificate of {issuer} if it is an intermediate (cat own.pem intermediate.pem > "
            "fullchain.pem); if it is the root of an authority of your own, name its file: tls_ca_file",
        )
    if code in _WEAK:
        return _problem(
            f"{pair.chain_place} holds a certificate that is too weak: {error.verify_message}.",
            "have one issued with SHA-256 and a longer key",
        )
    return _problem(
        f"{pair.chain_place} would be refused by clients: {error.verify_message} (OpenSSL's code {code}).",
        "have one issued for servers (extended key usage serverAuth)",
    )


def _loose_end(chain: Sequence[Certificate]) -> tuple[int, str]:
    """Follow a chain as far as it goes: the number of its last certificate, and the name of who issued that."""
    seen, one = [chain[0]], chain[0]
    while True:
        above = next((other for other in chain if other.subject == one.issuer and other not in seen), None)
        if above is None:
            return chain.index(one) + 1, one.issuer_name or "an issuer without a name"
        seen.append(above)
        one = above


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    visitor = client.wrap_bio(to_client, to_server)
    host = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_ROUNDS):
        for side in (visitor, host):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            if side is visitor:
                return


@contextmanager
def _as_file(text: str) -> Iterator[str]:
    """Give a text the path that OpenSSL wants, in memory where the system can: a key shall not lie about."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("kit")
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            yield f"/proc/self/fd/{descriptor}"
        return
    with tempfile.TemporaryDirectory(prefix="kit-") as folder:
        path = Path(folder, "content.pem")
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        yield str(path)


def _problem(problem: str, remedy: str) -> EngineError:
    return EngineError("certificate", problem, remedy)
