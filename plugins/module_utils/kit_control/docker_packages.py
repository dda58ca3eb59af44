"""Which packages bring Docker Engine, Compose v2 and buildx to a host, and from which apt repository.

Pure choice: what the host has comes in as text that was read there (roles/docker_host/files/details.sh),
files for its apt come out as text. No mirror and no suite of the host is known here beforehand; they are
taken from its own sources.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from kit_control.docker_engine import decode, fields
from kit_control.errors import KitError

Source = Literal["docker", "distribution"]

KEY_PATH = "/etc/apt/keyrings/docker.asc"
SOURCE_PATH = "/etc/apt/sources.list.d/docker.sources"
NEWER_SUITE_NAME = "docker-host-newer-suite"
PIN_PATH = f"/etc/apt/preferences.d/{NEWER_SUITE_NAME}.pref"

# Package by part. iptables is only recommended by some docker.io, but no bridge comes up without it.
DOCKER_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "engine": ("docker-ce", "docker-ce-cli", "containerd.io", "iptables"),
    "compose": ("docker-compose-plugin",),
    "buildx": ("docker-buildx-plugin",),
}


@dataclass(frozen=True)
class Release:
    """A distribution's release that the kit installs on.

    Attributes:
        codename: suite name in its archive.
        packages: its own packages by part (engine, compose, buildx).
        newer_suite: suite that has to be added for those of ``from_newer``; empty if none.
        aliases: other suite names under which its archive is known in apt sources.
        from_newer: parts whose package comes from the newer suite.
    """

    codename: str
    packages: Mapping[str, tuple[str, ...]]
    newer_suite: str = ""
    aliases: tuple[str, ...] = ()
    from_newer: tuple[str, ...] = ()


_DEBIAN_PLUGINS = {"compose": ("docker-compose",), "buildx": ("docker-buildx",)}
_UBUNTU = {
    "engine": ("docker.io", "iptables"),
    "compose": ("docker-compose-v2",),
    "buildx": ("docker-buildx",),
}

RELEASES: Mapping[tuple[str, str], Release] = {
    # Debian 12 has Compose v1 and no buildx; Debian 13's need only libc6 >= 2.34, which it has.
    ("debian", "12"): Release(
        "bookworm",
        {"engine": ("docker.io", "iptables"), **_DEBIAN_PLUGINS},
        newer_suite="trixie",
        aliases=("oldstable",),
        from_newer=("compose", "buildx"),
    ),
    # From Debian 13 on the docker command is a package of its own, and only recommended.
    ("debian", "13"): Release("trixie", {"engine": ("docker.io", "docker-cli", "iptables"), **_DEBIAN_PLUGINS}),
    ("ubuntu", "22.04"): Release("jammy", _UBUNTU),
    ("ubuntu", "24.04"): Release("noble", _UBUNTU),
}


@dataclass(frozen=True)
class AptEntry:
    """One entry of the host's apt sources.

    Attributes:
        path: file it stands in.
        types: ``deb``, ``deb-src``.
        uris: archive roots.
        suites: suite names.
        components: such as ``main``.
        text: the entry as it stands there; for one-line entries the bracketed options only.
    """

    path: str
    types: tuple[str, ...]
    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Details:
    """What details.sh read on the host.

    Attributes:
        entries: its apt sources, enabled ones only.
        installed: versions of the Docker packages that are there, by name.
        apparmor: whether its kernel enforces AppArmor.
        docker_folder: whether /etc/docker exists.
    """

    entries: tuple[AptEntry, ...] = ()
    installed: Mapping[str, str] = field(default_factory=dict)
    apparmor: bool = False
    docker_folder: bool = False


@dataclass(frozen=True)
class Reach:
    """How Docker's repository answered the host.

    Attributes:
        repository: its address.
        key: text of its signing key, empty if there was none.
        suite: whether it has this release's suite.
        answer: what went wrong, for the message.
    """

    repository: str
    key: str = ""
    suite: bool = False
    answer: str = ""


@dataclass(frozen=True)
class Plan:
    """What to install.

    Attributes:
        source: where from.
        why: one sentence for the user.
        packages: names for apt-get.
        files: path to content, to be on the host before its package lists are read.
    """

    source: Source
    why: str
    packages: tuple[str, ...]
    files: Mapping[str, str]


def _stanzas(text: str) -> Iterable[str]:
    return (part for part in re.split(r"\n[ \t]*\n", text.strip("\n")) if part.strip())


def _stanza_fields(stanza: str) -> dict[str, str]:
    result: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t") and name:
            result[name] += "\n" + line
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            result[name] = value.strip()
    return result


def _deb822_entries(path: str, text: str) -> Iterable[AptEntry]:
    for stanza in _stanzas(text):
        seen = _stanza_fields(stanza)
        if seen.get("enabled", "yes").lower() in ("no", "false", "0") or "uris" not in seen:
            continue
        types, uris, suites, components = (
            tuple(seen.get(name, "").split()) for name in ("types", "uris", "suites", "components")
        )
        yield AptEntry(path, types, uris, suites, components, stanza)


_ONE_LINE = re.compile(r"^(deb|deb-src)\s+(\[[^\]]*\]\s+)?(\S+)\s+(\S+)((?:\s+\S+)*)\s*$")


def _one_line_entries(path: str, text: str) -> Iterable[AptEntry]:
    for line in text.splitlines():
        match = _ONE_LINE.match(line.partition("#")[0].strip())
        if match:
            kind, options, uri, suite, components = match.groups()
            yield AptEntry(path, (kind,), (uri,), (suite,), tuple(components.split()), (options or "").strip())


def read_sources(path: str, text: str) -> tuple[AptEntry, ...]:
    """Read a file of apt sources, in either of its formats.

    Args:
        path: its name; ``.sources`` stands for deb822, all else for one entry a line.
        text: its content.

    Returns:
        Its enabled entries.
    """
    return tuple((_deb822_entries if path.endswith(".sources") else _one_line_entries)(path, text))


def read_details(text: str) -> Details:
    """Read the output of details.sh.

    Args:
        text: its standard output.

    Returns:
        What it found.

    Raises:
        KitError: it did not run to its end.
    """
    seen = fields(text)
    entries: list[AptEntry] = []
    for line in seen.get("source", []):
        path, _, content = line.partition(" ")
        entries += read_sources(path, decode(content))
    packages = (line.split() for line in seen.get("package", []))
    # "ii" is dpkg's word for "wanted and installed"; a removed package with leftover files is "rc".
    installed = {words[1]: words[2] for words in packages if len(words) == 3 and words[0] == "ii"}
    return Details(tuple(entries), installed, "apparmor" in seen, "docker_folder" in seen)


def newer_suite_files(entries: Sequence[AptEntry], release: Release) -> dict[str, str]:
    """Apt files that add the newer suite for the named packages only.

    Mirror, keyring and options are the host's own. The suite is pinned to 100, below what is installed, so
    that nothing is upgraded from it; the packages themselves are raised above an equal of the older suite.

    Args:
        entries: the host's apt sources.
        release: the host's release.

    Returns:
        Content by path. Where the host has the newer suite already its pins stay as they are.

    Raises:
        KitError: the host's sources do not hold its own release's main archive.
    """
    names = " ".join(name for part in release.from_newer for name in release.packages[part])
    raised = f"Package: {names}\nPin: release n={release.newer_suite}\nPin-Priority: 990\n"
    head = (
        f"# Written by the role docker_host: {names} of {release.newer_suite}, and nothing else of it.\n"
        f"# Remove it, and its namesake under /etc/apt, when you upgrade this host to {release.newer_suite}.\n"
    )
    own_files = (f"/{NEWER_SUITE_NAME}.list", f"/{NEWER_SUITE_NAME}.sources")
    others = [entry for entry in entries if not entry.path.endswith(own_files) and "deb" in entry.types]
    if any(release.newer_suite in entry.suites and "main" in entry.components for entry in others):
        return {PIN_PATH: head + raised}
    suites = {release.codename, *release.aliases}
    main = next((entry for entry in others if suites & set(entry.suites) and "main" in entry.components), None)
    if main is None:
        raise KitError(
            "engine_packages",
            f"Compose v2 and buildx come from {release.newer_suite} on this host, by the mirror of its own "
            f"{release.codename} main archive, but /etc/apt/sources.list and sources.list.d name none.",
            f"add the line `deb <your mirror> {release.codename} main` to /etc/apt/sources.list, or install Compose "
            "v2.20 and buildx yourself; then run this again.",
        )
    all_low = f"Package: *\nPin: release n={release.newer_suite}\nPin-Priority: 100\n\n"
    style, content = (
        ("sources", _deb822_for(main, release))
        if main.path.endswith(".sources")
        else (
            "list",
            "".join(
                f"{' '.join(filter(None, ('deb', main.text, uri, release.newer_suite, 'main')))}\n" for uri in main.uris
            ),
        )
    )
    return {
        f"/etc/apt/sources.list.d/{NEWER_SUITE_NAME}.{style}": head + content,
        PIN_PATH: head + all_low + raised,
    }


def _deb822_for(entry: AptEntry, release: Release) -> str:
    """The entry with the newer suite's main archive alone; every other field (keyring, options) as it stands."""
    replaced = {"types": "deb", "suites": release.newer_suite, "components": "main"}
    lines: list[str] = []
    skipping = False
    for line in entry.text.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] not in (" ", "\t"):
            name = line.partition(":")[0].strip()
            skipping = name.lower() in replaced
            if skipping:
                line = f"{name}: {replaced[name.lower()]}"
                lines.append(line)
                continue
        if not skipping:
            lines.append(line)
    return "\n".join(lines) + "\n"


def key_fingerprints(armored: str) -> tuple[str, ...]:
    """Fingerprints of the primary keys in an ASCII-armored OpenPGP key file (RFC 4880, sections 4.2, 6.2,
    12.2).

    Args:
        armored: the file's text.

    Returns:
        Version-4 fingerprints in upper-case hexadecimal, in order; empty where there is no key to be read.
    """
    found: list[str] = []
    for block in re.findall(r"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(.*?)-----END", armored, re.DOTALL):
        # Armor headers end with an empty line; the checksum line begins with "=".
        _, _, body = block.replace("\r", "").partition("\n\n") if ":" in block else ("", "", block)
        encoded = "".join(line for line in body.splitlines() if not line.startswith("="))
        try:
            found += _primary_keys(base64.b64decode(encoded, validate=True))
        except (binascii.Error, IndexError):
            return ()
    return tuple(found)


def _primary_keys(data: bytes) -> Iterable[str]:
    position = 0
    while position < len(data):
        header = data[position]
        position += 1
        if header & 0x40:
            tag, first = header & 0x3F, data[position]
            if first < 192:
                length, used = first, 1
            elif first < 224:
                length, used = ((first - 192) << 8) + data[position + 1] + 192, 2
            else:
                length, used = int.from_bytes(data[position + 1 : position + 5], "big"), 5
        else:
            tag, used = (header >> 2) & 0x0F, 1 << (header & 3)
            length = int.from_bytes(data[position : position + used], "big")
        position += used
        body = data[position : position + length]
        position += length
        if tag == 6 and body[:1] == b"\x04":
            # The old two-byte-length header is part of what a version-4 fingerprint is taken over.
            yield (
                hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False).hexdigest().upper()
            )


def docker_files(
    reach: Reach, distribution: str, codename: str, entries: Sequence[AptEntry], fingerprint: str
) -> dict[str, str]:
    """Apt files for Docker's own repository.

    Args:
        reach: how it answered; holds its key.
        distribution: ``debian`` or ``ubuntu``.
        codename: suite name.
        entries: the host's apt sources; a repository that it has already is left as it is.
        fingerprint: the only primary key that the key file may hold.

    Returns:
        Content by path.

    Raises:
        KitError: the key is another one.
    """
    address = f"{reach.repository.rstrip('/')}/{distribution}"
    if any(uri.rstrip("/") == address for entry in entries if entry.path != SOURCE_PATH for uri in entry.uris):
        return {}
    prints = key_fingerprints(reach.key)
    if prints != (fingerprint,):
        raise KitError(
            "engine_key",
            f"{address}/gpg holds the key {', '.join(prints) or '(none)'}, but Docker's is {fingerprint}. Somebody "
            "between this host and Docker may have changed it.",
            "find out who answers at that address; or take the distribution's packages: "
            "ARGS='-e docker_host_source=distribution'",
        )
    source = f"Types: deb\nURIs: {address}\nSuites: {codename}\nComponents: stable\nSigned-By: {KEY_PATH}\n"
    return {KEY_PATH: reach.key, SOURCE_PATH: source}


def _release_of(distribution: str, version: str) -> Release:
    release = RELEASES.get((distribution, version))
    if release is None:
        known = ", ".join(f"{name.capitalize()} {number}" for name, number in RELEASES)
        raise KitError(
            "engine_system",
            f"This host runs {distribution or 'an unknown system'} {version}; the kit installs Docker on {known}.",
            "install Docker Engine 20.10 or newer, Compose v2.20 or newer and buildx there yourself "
            "(https://docs.docker.com/engine/install/), then run this again: it uses what it finds.",
        )
    return release


def _choose_source(wanted: str, reach: Reach, installed: Mapping[str, str]) -> tuple[Source, str]:
    if "docker-ce" in installed or "docker-ce-cli" in installed:
        return "docker", "the engine on this host is Docker's own package, so its plugins are too"
    if "docker.io" in installed or "docker-cli" in installed:
        return "distribution", "the engine on this host is the distribution's, so its plugins are too"
    if wanted == "distribution":
        return "distribution", "docker_host_source says so"
    if reach.key and reach.suite:
        return "docker", f"{reach.repository} answers" if wanted == "auto" else "docker_host_source says so"
    if wanted == "docker":
        raise KitError(
            "engine_packages",
            f"docker_host_source is docker, but {reach.repository} cannot be used from this host: {reach.answer}",
            "name a mirror of it (docker_host_docker_repository), open the way, or take the distribution's packages: "
            "ARGS='-e docker_host_source=distribution'",
        )
    return "distribution", f"{reach.repository} cannot be used from this host ({reach.answer})"


def plan(
    *,
    distribution: str,
    version: str,
    wanted_source: str,
    missing: Sequence[str],
    details: Details,
    reach: Reach,
    fingerprint: str,
) -> Plan:
    """Choose packages and repository.

    Args:
        distribution: os-release ID.
        version: os-release VERSION_ID.
        wanted_source: ``docker``, ``distribution`` or ``auto``.
        missing: of ``engine``, ``compose``, ``buildx``, the parts to install.
        details: what the host has.
        reach: how Docker's repository answered; unused for ``distribution``.
        fingerprint: of the repository's signing key.

    Returns:
        What to install.

    Raises:
        KitError: unsupported system, wanted source out of reach, wrong key, or no archive to take packages
            from.
    """
    release = _release_of(distribution, version)
    source, why = _choose_source(wanted_source, reach, details.installed)
    by_part = DOCKER_PACKAGES if source == "docker" else release.packages
    packages = [name for part in missing for name in by_part[part]]
    if "engine" in missing and details.apparmor:
        # Without its parser the engine silently runs containers unconfined.
        packages.append("apparmor")
    files: dict[str, str] = {}
    if source == "docker":
        if not details.installed:
            files = docker_files(reach, distribution, release.codename, details.entries, fingerprint)
    elif set(missing) & set(release.from_newer):
        files = newer_suite_files(details.entries, release)
    return Plan(source, why, tuple(packages), files)


def reach_of(repository: str, answers: Sequence[Mapping[str, Any]]) -> Reach:
    """Judge how Docker's repository answered.

    Args:
        repository: its address.
        answers: results of Ansible's uri module for its key and its suite's Release file; fewer if it was
            not asked.

    Returns:
        The judgement.
    """
    bad = next((answer for answer in answers if answer.get("status") != 200), None)
    if bad is not None:
        return Reach(repository, answer=f"{bad.get('url') or repository}: {bad.get('msg', 'no answer')}")
    if len(answers) < 2:
        return Reach(repository, answer="it was not asked")
    return Reach(repository, key=str(answers[0].get("content", "")), suite=True)
