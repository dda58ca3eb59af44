"""What a certificate says, read from its DER form: Python's ssl tells it only of a certificate that it trusts."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

_PEM = re.compile(r"-----BEGIN (?:X509 )?CERTIFICATE-----(.+?)-----END (?:X509 )?CERTIFICATE-----", re.S)
# Tags of the encoding (ITU-T X.690), and of a certificate's own parts (RFC 5280, appendix A).
_OBJECT_ID, _UTC_TIME = 0x06, 0x17
_VERSION, _EXTENSIONS, _DNS_NAME, _ADDRESS = 0xA0, 0xA3, 0x82, 0x87
# Object identifiers as the encoding writes them.
_COMMON_NAME, _ALTERNATIVE_NAMES = bytes.fromhex("550403"), bytes.fromhex("551d11")
_RSA, _EC = bytes.fromhex("2a864886f70d010101"), bytes.fromhex("2a8648ce3d0201")
_CURVES = {
    bytes.fromhex("2a8648ce3d030107"): "P-256",
    bytes.fromhex("2b81040022"): "P-384",
    bytes.fromhex("2b81040023"): "P-521",
}
_OTHER_KEYS = {bytes.fromhex("2b6570"): "Ed25519", bytes.fromhex("2b6571"): "Ed448"}

_Item = tuple[int, bytes]


@dataclass(frozen=True)
class Certificate:
    """One certificate.

    Attributes:
        der: its bytes.
        serial: in hexadecimal, two digits for each byte.
        names: the host names and addresses that it is good for, in lower case.
        not_before: seconds since 1970; ``not_after`` too.
        key: such as ``RSA 2048``, ``P-256``, ``Ed25519``.
        subject: whom it is about, as encoded; ``issuer`` likewise who vouches for that.
    """

    der: bytes
    serial: str
    names: tuple[str, ...]
    not_before: float
    not_after: float
    key: str
    subject: bytes
    issuer: bytes

    @property
    def self_issued(self) -> bool:
        """Whether it names itself as its issuer."""
        return self.subject == self.issuer

    @property
    def issuer_name(self) -> str:
        """The issuer's name for people; empty where it has none."""
        for _, attributes in _items(self.issuer):
            for _, attribute in _items(attributes):
                (_, identifier), (_, value) = _items(attribute)
                if identifier == _COMMON_NAME:
                    return value.decode("utf-8", "replace")
        return ""

    @property
    def pem(self) -> str:
        """It as text."""
        return ssl.DER_cert_to_PEM_cert(self.der)


def read_all(text: str) -> list[Certificate]:
    """Read every certificate of a PEM text, in its order; other things in it are passed over.

    Args:
        text: such as the content of a ``fullchain.pem``.

    Raises:
        ValueError: one of them cannot be read.
    """
    try:
        return [read(base64.b64decode("".join(block.split()), validate=True)) for block in _PEM.findall(text)]
    except (binascii.Error, UnicodeError) as error:
        raise ValueError(f"no base64: {error}") from None


def read(der: bytes) -> Certificate:
    """Read one certificate.

    Args:
        der: its bytes.

    Raises:
        ValueError: it is cut off, or no certificate.
    """
    try:
        ((_, whole), *_rest) = _items(der)
        ((_, body), *_rest) = _items(whole)
        parts = list(_items(body))
        if parts[0][0] == _VERSION:
            parts = parts[1:]
        (_, serial), _signature, (_, issuer), (_, validity), (_, subject), (_, key), *rest = parts
        not_before, not_after = (_time(item) for item in _items(validity))
        extensions = next((content for tag, content in rest if tag == _EXTENSIONS), b"")
        return Certificate(
            der, serial_text(serial), tuple(_names(extensions)), not_before, not_after, _key(key), subject, issuer
        )
    except (IndexError, KeyError, UnicodeError) as error:
        raise ValueError(f"not encoded as certificates are: {error}") from None


def serial_text(content: bytes) -> str:
    """Write a serial number as OpenSSL does."""
    return f"{int.from_bytes(content, 'big'):0{2 * max(1, len(content.lstrip(bytes(1))))}X}"


def fingerprint(chain: list[Certificate]) -> str:
    """Give the SHA-256 of a chain, in hexadecimal; line breaks and remarks of its text do not count."""
    return hashlib.sha256(b"".join(one.der for one in chain)).hexdigest()


def _items(content: bytes) -> Iterator[_Item]:
    """Walk over what stands in a row: tag and content of each."""
    place = 0
    while place < len(content):
        tag, length = content[place], content[place + 1]
        place += 2
        if length & 0x80:
            size = length & 0x7F
            length, place = int.from_bytes(content[place : place + size], "big"), place + size
        if place + length > len(content):
            raise IndexError("it is cut off")
        yield tag, content[place : place + length]
        place += length


def _time(item: _Item) -> float:
    tag, content = item
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        # RFC 5280, 4.1.2.5.1: two digits of a year mean 1950 to 2049.
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()


def _names(extensions: bytes) -> Iterator[str]:
    for _, all_of_them in _items(extensions):
        for _, extension in _items(all_of_them):
            (_, identifier), *_critical, (_, value) = _items(extension)
            if identifier != _ALTERNATIVE_NAMES:
                continue
            for _, names in _items(value):
                for tag, name in _items(names):
                    if tag == _DNS_NAME:
                        yield name.decode("ascii").lower()
                    elif tag == _ADDRESS:
                        yield str(ipaddress.ip_address(name))


def _key(content: bytes) -> str:
    (_, algorithm), (_, bits) = _items(content)
    (_, identifier), *parameters = _items(algorithm)
    if identifier == _RSA:
        # The first byte of a bit string counts the bits of the last one that are not used.
        ((_, numbers),) = _items(bits[1:])
        (_, modulus), _exponent = _items(numbers)
        return f"RSA {int.from_bytes(modulus, 'big').bit_length()}"
    if identifier == _EC:
        tag, curve = parameters[0]
        return _CURVES.get(curve, "an unusual curve") if tag == _OBJECT_ID else "an unusual curve"
    return _OTHER_KEYS.get(identifier, "an unusual kind")
