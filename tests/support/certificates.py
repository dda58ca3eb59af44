"""Certificates of a private authority, good ones and every kind of bad one."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

NOW = datetime.datetime.now(datetime.UTC)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Issued:
    """A certificate, its key, and the certificates of those who issued it, the root last."""

    certificate: x509.Certificate
    key: Key
    issuers: tuple[x509.Certificate, ...] = ()

    @property
    def serial(self) -> str:
        """Its serial number as OpenSSL writes it."""
        text = f"{self.certificate.serial_number:X}"
        return text.zfill(len(text) + len(text) % 2)

    @property
    def own(self) -> str:
        """It alone, as PEM."""
        return pem(self.certificate)

    @property
    def chain(self) -> str:
        """It and all that lead to the root, without the root."""
        return "".join(pem(one) for one in (self.certificate, *self.issuers[:-1]))

    @property
    def root(self) -> str:
        """The root's certificate; for a self-signed one its own."""
        return pem(self.issuers[-1]) if self.issuers else self.own

    @property
    def key_pem(self) -> str:
        """Its key."""
        return key_pem(self.key)


def pem(certificate: x509.Certificate) -> str:
    """Write a certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def key_pem(key: Key, password: str = "") -> str:
    """Write a key as text."""
    lock: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        lock = serialization.BestAvailableEncryption(password.encode())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock).decode()


def issue(
    names: Sequence[str],
    by: Issued | None = None,
    *,
    key: Key | None = None,
    days: tuple[float, float] = (-1, 90),
    authority: bool = False,
    serial: int | None = None,
    revocations: str = "",
) -> Issued:
    """Issue a certificate.

    Args:
        names: host names and addresses it is for; the first is its subject.
        by: who issues it; None: it signs itself.
        key: its own; default: a new one on P-256.
        days: from when until when it is valid, counted from now.
        authority: whether it may issue others.
        serial: its number; default: a random one.
        revocations: address of its issuer's list of revoked ones; empty: it names none.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    issuer_key: CertificateIssuerPrivateKeyTypes = by.key if by else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(NOW + datetime.timedelta(days=days[0]))
        .not_valid_after(NOW + datetime.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        general = [_general(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    if revocations:
        place = x509.DistributionPoint([x509.UniformResourceIdentifier(revocations)], None, None, None)
        builder = builder.add_extension(x509.CRLDistributionPoints([place]), critical=False)
    hashed = None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    certificate = builder.sign(issuer_key, hashed)
    return Issued(certificate, key, (by.certificate, *by.issuers) if by else ())


def authorities() -> Issued:
    """Make a private root and an intermediate below it; returns the latter."""
    root = issue(["Test root"], authority=True, days=(-10, 3650))
    return issue(["Test intermediate"], root, authority=True, days=(-5, 1000))


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
