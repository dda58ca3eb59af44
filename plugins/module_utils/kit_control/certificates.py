"""The certificate that an environment wants, as the control node has it: given by the user, or made here."""

from __future__ import annotations

import datetime
import ipaddress
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kit_engine import certificate_checks
from kit_engine.certificate_checks import Pair, Wanted
from kit_engine.errors import CheckFailed
from kit_engine.x509 import Certificate

from kit_control.errors import KitError

SELF_SIGNED, PROVIDED = "selfsigned", "provided"
# Clocks differ by a little: a certificate that is made now must not seem to be of the future.
_BACKDATED = datetime.timedelta(hours=1)
# The part of a certificate that names its subject takes 64 characters (RFC 5280, ub-common-name).
_LONGEST_SUBJECT = 64


@dataclass(frozen=True)
class Inputs:
    """The inputs of role tls, by their names without its prefix.

    Attributes:
        read: gives the text of a file of this machine, unlocked where ansible-vault locked it.
    """

    mode: str
    domains: tuple[str, ...]
    certificate_file: str
    key_file: str
    certificate: str
    key: str
    ca_file: str
    env: str
    read: Callable[[str], str]


def judged(inputs: Inputs) -> tuple[Pair, list[Certificate]]:
    """Read the certificate that the user gives, and judge it.

    Args:
        inputs: of role tls, in mode ``provided``.

    Returns:
        Certificate and key as given, and the chain.

    Raises:
        KitError: one is not given, cannot be read, or would be refused by visitors; nothing was changed.
    """
    chain, chain_place = _given(inputs, "certificate", inputs.certificate_file, inputs.certificate)
    key, key_place = _given(inputs, "key", inputs.key_file, inputs.key)
    pair = Pair(chain, key, chain_place, key_place)
    authority = _read(inputs, "tls_ca_file", inputs.ca_file) if inputs.ca_file else ""
    wanted = Wanted(inputs.domains, authority=authority, authority_place=inputs.ca_file)
    try:
        return pair, certificate_checks.judge(pair, wanted)
    except CheckFailed as error:
        lines = [f"  - {one.problem}\n    Next: {one.remedy}" for one in error.problems]
        raise KitError(
            "certificate",
            "Nothing was changed; the certificate must be mended first:\n" + "\n".join(lines),
            f"Mend the lines above, then: make deploy ENV={inputs.env}",
        ) from None


def keeps(there: Mapping[str, Any], domains: Sequence[str], now: float) -> bool:
    """Tell whether what a host has is good enough where any certificate will do.

    Args:
        there: what the host told of it; empty for none.
        domains: of the site.
        now: seconds since 1970.
    """
    if not there or float(there["not_after"]) <= now:
        return False
    return not certificate_checks.missing_names([str(name) for name in there["names"]], domains)


def stands(there: Mapping[str, Any], domains: Sequence[str], warn_days: int) -> bool:
    """Tell whether nothing is to be done or said where any certificate will do.

    Args:
        there: as of :func:`keeps`.
        domains: of the site.
        warn_days: fewer days than these until it expires are warned of.
    """
    good = keeps(there, domains, time.time()) and certificate_checks.days_left(float(there["not_after"])) >= warn_days
    # One that somebody gave is kept too, but not in silence.
    return good and there.get("served") is True and there.get("self_signed") is True


@dataclass(frozen=True)
class Choice:
    """What mode ``selfsigned`` does with what a host has.

    Attributes:
        make: whether a new one is made and installed.
        note: said where somebody else's certificate is kept; empty for none.
        warning: said where somebody else's certificate goes out of use; empty for none.
    """

    make: bool
    note: str = ""
    warning: str = ""


def choose(there: Mapping[str, Any], domains: Sequence[str], now: float, *, replaces: bool) -> Choice:
    """Decide whether a self-signed certificate takes the place of what a host has.

    One that was given (by mode ``provided``, by an ACME client's hook) is better than any made here: it stays while it
    is good, and it is said so; it never goes out of use in silence.

    Args:
        there: what the host told of the one in use; empty for none.
        domains: of the site.
        now: seconds since 1970.
        replaces: whether a given one goes although it is good.
    """
    good = keeps(there, domains, now)
    if not there or there["self_signed"]:
        return Choice(not good)
    what = f"certificate {there['serial']}, which was given and not made by the kit,"
    until = certificate_checks.date(float(there["not_after"]))
    if good and not replaces:
        return Choice(
            False,
            note=f"{what} is kept: it is good until {until}. With tls_selfsigned_replaces: true a self-signed one "
            "takes its place",
        )
    missing = certificate_checks.missing_names([str(name) for name in there["names"]], domains)
    if good:
        why = "tls_selfsigned_replaces is true"
    else:
        why = f"it does not cover {', '.join(missing)}" if missing else f"it expired on {until}"
    return Choice(
        True,
        warning=f"{what[0].upper()}{what[1:]} goes out of use: {why}. Visitors get a self-signed one, and browsers "
        "warn of that. The earlier one still lies beside it on the host (docker-manage.sh certificate lists both).",
    )


def self_signed(domains: Sequence[str], days: int) -> Pair:
    """Make a certificate that signs itself, so that nginx starts before there is a real one.

    Args:
        domains: of the site.
        days: how long it is valid.
    """
    # Imported here: it takes a tenth of a second, and most deploys never need it.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, domains[0][:_LONGEST_SUBJECT])])
    now = datetime.datetime.now(datetime.UTC)

    def general(domain: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ipaddress.ip_address(domain))
        except ValueError:
            return x509.DNSName(domain)

    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([general(domain) for domain in domains]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode(),
        "the certificate that was made",
        "the key that was made",
    )


def _given(inputs: Inputs, what: str, path: str, content: str) -> tuple[str, str]:
    """The text that one of two inputs gives, and where it stands."""
    where = f"inventories/{inputs.env}/group_vars/all"
    if path and content:
        raise KitError(
            "certificate", f"Both tls_{what}_file and tls_{what} are set in {where}.", "take one of the two out"
        )
    if content:
        return content, f"tls_{what}"
    if not path:
        raise KitError(
            "certificate",
            f"{where}: tls_mode is {PROVIDED}, and no {what} is given.",
            f"write tls_{what}_file: path, or vault_tls_{what} with ansible-vault; or tls_mode: {SELF_SIGNED}",
        )
    return _read(inputs, f"tls_{what}_file", path), path


def _read(inputs: Inputs, name: str, path: str) -> str:
    try:
        return inputs.read(path)
    except UnicodeDecodeError:
        raise KitError(
            "certificate",
            f"{name}: {path} is no PEM text.",
            f"openssl x509 -inform der -in {path} -out fullchain.pem    (turns a certificate into one)",
        ) from None
    except OSError as error:
        raise KitError(
            "certificate", f"{name}: {path} cannot be read: {error.strerror or error}.", f"ls -l {path}"
        ) from None
