"""What the administrator of this machine set up: package mirror, company certificates, package index.

All of it is read from the machine, so that no address of a mirror is ever written down.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

SYSTEM_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
STOCK_CERTIFICATES = Path("/usr/share/ca-certificates/mozilla")
DEFAULT_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
# Proxies and clock checks of the machine's apt; a name or password in auth.conf is not ours to read.
_APT_SETTING = re.compile(r'^(Acquire::(?:https?::(?:Proxy|CaInfo)|Check-(?:Valid-Until|Date)|Retries)\b\S* "[^"]*";)$')
_PIP_KEYS = ("index-url", "extra-index-url", "proxy", "timeout")


@dataclass(frozen=True)
class Source:
    """One entry of apt's sources.

    Attributes:
        uris: where the packages come from.
        suites: names of the suites.
        components: names of the components.
        signed_by: path of the keyring, or empty for apt's own keys.
    """

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""


def parse_sources(text: str, *, deb822: bool) -> list[Source]:
    """Read the binary package entries of one sources file.

    Args:
        text: the file's text.
        deb822: the file ends in .sources (stanzas); otherwise one entry per line.

    Returns:
        The enabled entries in their order.
    """
    return _stanzas(text) if deb822 else _one_line_entries(text)


def _stanzas(text: str) -> list[Source]:
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        last = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace() and last:
                fields[last] += " " + line.strip()
            elif ":" in line:
                name, _, value = line.partition(":")
                last = name.strip().lower()
                fields[last] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        signed_by = fields.get("signed-by", "")
        found.append(
            Source(
                tuple(fields.get("uris", "").split()),
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                signed_by if signed_by.startswith("/") else "",
            )
        )
    return found


def _one_line_entries(text: str) -> list[Source]:
    found = []
    for line in text.splitlines():
        entry = re.match(r"^\s*deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line)
        if entry:
            options = dict(word.split("=", 1) for word in (entry[1] or "").split() if "=" in word)
            found.append(Source((entry[2],), (entry[3],), tuple(entry[4].split()), options.get("signed-by", "")))
    return found


def sources_for(distro: str, machine_distro: str, sources: Iterable[Source]) -> list[Source]:
    """Turn the machine's Debian sources into those of another Debian release.

    Args:
        distro: code name of the host to make.
        machine_distro: code name of this machine.
        sources: the machine's entries.

    Returns:
        The entries whose suites all belong to the machine's release, renamed; others (a vendor's own
        repository) are left out.
    """
    found: list[Source] = []
    for source in sources:
        own = all(re.fullmatch(rf"{machine_distro}(-updates|-security)?", suite) for suite in source.suites)
        if not own or not source.suites:
            continue
        suites = tuple(distro + suite.removeprefix(machine_distro) for suite in source.suites)
        keyring = source.signed_by or DEFAULT_KEYRING
        components = tuple(name for name in source.components if name == "main")
        renamed = Source(source.uris, suites, components, keyring)
        if components and renamed not in found:
            found.append(renamed)
    return found


def render_sources(sources: Sequence[Source]) -> str:
    """Write entries as one deb822 file.

    Args:
        sources: the entries.

    Returns:
        Text for a .sources file.
    """
    return "\n".join(
        f"Types: deb\nURIs: {' '.join(source.uris)}\nSuites: {' '.join(source.suites)}\n"
        f"Components: {' '.join(source.components)}\nSigned-By: {source.signed_by}\n"
        for source in sources
    )


def added_certificates(bundle: str, stock: Iterable[str]) -> list[str]:
    """Find the certificates that an administrator added to the machine's bundle.

    Args:
        bundle: text of the machine's bundle.
        stock: texts of the distribution's certificates.

    Returns:
        The added ones as PEM, each once, in their order.
    """
    known = {"".join(block.split()) for text in stock for block in _PEM.findall(text)}
    found: dict[str, str] = {}
    for block in _PEM.findall(bundle):
        key = "".join(block.split())
        if key not in known:
            found.setdefault(key, block + "\n")
    return list(found.values())


def pip_settings(text: str) -> dict[str, str]:
    """Pick what leads pip to a company's index; folders of this machine mean nothing in a host.

    Args:
        text: a pip.conf.

    Returns:
        Settings of its [global] section, without any address of a local file.
    """
    parser = configparser.RawConfigParser(strict=False)
    parser.read_string(text)
    found = {}
    for key in _PIP_KEYS:
        value = parser.get("global", key, fallback="").split()
        remote = [word for word in value if not word.startswith(("file:", "/"))]
        if remote:
            found[key] = " ".join(remote)
    return found


def apt_settings(dump: str) -> list[str]:
    """Pick the proxies and clock checks of the machine's apt.

    Args:
        dump: what `apt-config dump` prints.

    Returns:
        Lines of apt.conf, in their order.
    """
    return [found[1] for line in dump.splitlines() if (found := _APT_SETTING.match(line)) and '""' not in line]


def code_name() -> str:
    """Code name of this machine's release, such as bookworm; empty where os-release has none."""
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    return ""


def machine_sources() -> list[Source]:
    """Every enabled binary entry of this machine's apt."""
    folder = Path("/etc/apt")
    paths = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    return [
        source
        for path in paths
        if path.suffix in (".list", ".sources") and path.is_file()
        for source in parse_sources(path.read_text(), deb822=path.suffix == ".sources")
    ]


def company_bundle() -> str:
    """Path of the certificate bundle that builds need here; empty where the distribution's own will do.

    A bundle counts as the company's when it holds a certificate that the distribution did not ship.
    """
    bundle = Path(os.environ.get("SSL_CERT_FILE") or SYSTEM_BUNDLE)
    stock = [path.read_text() for path in sorted(STOCK_CERTIFICATES.glob("*.crt"))]
    if not bundle.is_file() or not stock:
        return ""
    return str(bundle) if added_certificates(bundle.read_text(), stock) else ""


def extra_ca_bundle(choice: str) -> str:
    """Turn an inventory's choice into a path: ``machine`` is :func:`company_bundle`, all else is taken as it is."""
    return company_bundle() if choice == "machine" else choice


def uv_configuration() -> str:
    """The same package index for uv, which reads no pip.conf, as text of a uv.toml; empty without one."""
    settings = _machine_pip_settings()
    lines = [f'index-url = "{settings["index-url"]}"'] if "index-url" in settings else []
    further = ", ".join(f'"{url}"' for url in settings.get("extra-index-url", "").split())
    return "\n".join([*lines, *([f"extra-index-url = [{further}]"] if further else []), ""]) if lines or further else ""


def _machine_pip_settings() -> dict[str, str]:
    path = Path("/etc/pip.conf")
    return pip_settings(path.read_text()) if path.is_file() else {}


def pip_configuration() -> str:
    """The machine's pip settings that lead to a company's index, as text of a pip.conf; empty without any."""
    settings = _machine_pip_settings()
    return "[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()) if settings else ""
