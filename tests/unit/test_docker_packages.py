"""Which packages bring an engine, and what apt files that takes. Ubuntu is covered by these tests alone."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from kit_control.docker_packages import (
    KEY_PATH,
    PIN_PATH,
    RELEASES,
    SOURCE_PATH,
    Details,
    Plan,
    Reach,
    docker_files,
    key_fingerprints,
    newer_suite_files,
    plan,
    reach_of,
    read_details,
    read_sources,
)
from kit_control.errors import KitError

# A key made for these tests with `gpg --quick-generate-key`, and its fingerprint as gpg prints it.
FINGERPRINT = "A6C0E4438CE9AAF4FE095CA02ADE849877F8A439"
KEY = """-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEawQEMRYJKwYBBAHaRw8BAQdA8AMuphTBlF0FKk4uiPwn6w2YWLCAMValebdV
n2MNeAm0IkZha2UgRG9ja2VyIDxmYWtlQGV4YW1wbGUuaW52YWxpZD6IkAQTFggA
OBYhBKbA5EOM6ar0/glcoCrehJh3+KQ5BQJrBAQxAhsDBQsJCAcCBhUKCQgLAgQW
AgMBAh4BAheAAAoJECrehJh3+KQ52rQBAKul0bmXe93gHXBbnVrZ2ONvb37k/cZj
6RrgRk/fX6vnAP9n+ZCclXhoZ+zd//4lzHn1GQKN96R+CBZ0ZKtmMee6Cw==
=zyVw
-----END PGP PUBLIC KEY BLOCK-----
"""

REPOSITORY = "https://packages.example.org/linux"
REACHED = Reach(REPOSITORY, key=KEY, suite=True)
OUT_OF_REACH = Reach(REPOSITORY, answer="no route to host")

ONE_LINE = """# deb cdrom:[Debian 12]/ bookworm main
deb-src http://mirror.example.org/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/own.gpg] http://mirror.example.org/debian bookworm main contrib # ours
deb http://mirror.example.org/debian-security bookworm-security main
"""
DEB822 = """Types: deb deb-src
URIs: http://mirror.example.org/debian
Suites: bookworm bookworm-updates
Components: main contrib
Check-Valid-Until: no
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEawQEMRYJ
 -----END PGP PUBLIC KEY BLOCK-----

# the security archive
Types: deb
URIs: http://mirror.example.org/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example.org/debian
Suites: bookworm
Components: main
"""
BOOKWORM = RELEASES["debian", "12"]


def details(text: str = ONE_LINE, name: str = "sources.list", **rest: Any) -> Details:
    return Details(entries=read_sources(f"/etc/apt/{name}", text), **rest)


def choose(distribution: str = "debian", version: str = "13", **rest: Any) -> Plan:
    arguments: dict[str, Any] = {
        "wanted_source": "distribution",
        "missing": ["engine", "compose", "buildx"],
        "details": details(),
        "reach": OUT_OF_REACH,
        "fingerprint": FINGERPRINT,
    }
    return plan(distribution=distribution, version=version, **{**arguments, **rest})


@pytest.mark.parametrize(
    ("distribution", "version", "packages"),
    [
        ("debian", "12", ["docker.io", "iptables", "docker-compose", "docker-buildx"]),
        ("debian", "13", ["docker.io", "docker-cli", "iptables", "docker-compose", "docker-buildx"]),
        ("ubuntu", "22.04", ["docker.io", "iptables", "docker-compose-v2", "docker-buildx"]),
        ("ubuntu", "24.04", ["docker.io", "iptables", "docker-compose-v2", "docker-buildx"]),
    ],
)
def test_the_distributions_own_packages(distribution: str, version: str, packages: list[str]) -> None:
    chosen = choose(distribution, version)
    assert list(chosen.packages) == packages
    assert chosen.source == "distribution"


@pytest.mark.parametrize(
    ("distribution", "version", "codename"),
    [
        ("debian", "12", "bookworm"),
        ("debian", "13", "trixie"),
        ("ubuntu", "22.04", "jammy"),
        ("ubuntu", "24.04", "noble"),
    ],
)
def test_dockers_own_repository(distribution: str, version: str, codename: str) -> None:
    chosen = choose(distribution, version, wanted_source="docker", reach=REACHED)
    assert set(chosen.packages) == {
        "docker-ce",
        "docker-ce-cli",
        "containerd.io",
        "iptables",
        "docker-compose-plugin",
        "docker-buildx-plugin",
    }
    assert chosen.files == {
        KEY_PATH: KEY,
        SOURCE_PATH: f"Types: deb\nURIs: {REPOSITORY}/{distribution}\nSuites: {codename}\nComponents: stable\n"
        f"Signed-By: {KEY_PATH}\n",
    }


@pytest.mark.parametrize(
    ("wanted", "reach", "source", "why"),
    [
        ("auto", REACHED, "docker", f"{REPOSITORY} answers"),
        ("auto", OUT_OF_REACH, "distribution", "no route to host"),
        ("auto", Reach(REPOSITORY, key=KEY, answer="404"), "distribution", "404"),
        ("distribution", REACHED, "distribution", "docker_host_source says so"),
        ("docker", REACHED, "docker", "docker_host_source says so"),
    ],
)
def test_the_source_is_the_first_within_reach_and_is_named(wanted: str, reach: Reach, source: str, why: str) -> None:
    chosen = choose(wanted_source=wanted, reach=reach)
    assert chosen.source == source
    assert why in chosen.why


def test_a_wanted_source_out_of_reach_is_an_error_with_a_way_out() -> None:
    with pytest.raises(KitError, match="no route to host") as error:
        choose(wanted_source="docker")
    assert "docker_host_source=distribution" in error.value.remedy


@pytest.mark.parametrize(("distribution", "version"), [("debian", "11"), ("fedora", "43"), ("", "")])
def test_another_system_is_refused_with_the_list_of_known_ones(distribution: str, version: str) -> None:
    with pytest.raises(KitError, match=r"Debian 12, Debian 13, Ubuntu 22\.04, Ubuntu 24\.04"):
        choose(distribution, version)


@pytest.mark.parametrize(
    ("installed", "missing", "packages"),
    [
        ({"docker-ce": "5:27.5", "docker-ce-cli": "5:27.5"}, ["compose"], ["docker-compose-plugin"]),
        ({"docker-ce": "5:27.5"}, ["compose", "buildx"], ["docker-compose-plugin", "docker-buildx-plugin"]),
        ({"docker.io": "26.1.5"}, ["buildx"], ["docker-buildx"]),
        ({}, ["compose"], ["docker-compose"]),
    ],
)
def test_only_what_is_missing_is_added_from_where_the_engine_came(
    installed: dict[str, str], missing: list[str], packages: list[str]
) -> None:
    chosen = choose(wanted_source="auto", missing=missing, details=details(installed=installed))
    assert list(chosen.packages) == packages
    assert chosen.files == {}


def test_apparmors_parser_comes_where_the_kernel_has_apparmor() -> None:
    assert "apparmor" in choose(details=details(apparmor=True)).packages
    assert "apparmor" not in choose(missing=["compose"], details=details(apparmor=True)).packages


def test_the_newer_suite_by_the_hosts_own_mirror_one_line_format() -> None:
    files = newer_suite_files(read_sources("/etc/apt/sources.list", ONE_LINE), BOOKWORM)
    path, text = next((path, text) for path, text in files.items() if path != PIN_PATH)
    assert path == "/etc/apt/sources.list.d/docker-host-newer-suite.list"
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        "deb [arch=amd64 signed-by=/usr/share/keyrings/own.gpg] http://mirror.example.org/debian trixie main"
    ]


def test_the_newer_suite_by_the_hosts_own_mirror_deb822_format() -> None:
    files = newer_suite_files(read_sources("/etc/apt/sources.list.d/debian.sources", DEB822), BOOKWORM)
    path, text = next((path, text) for path, text in files.items() if path != PIN_PATH)
    assert path == "/etc/apt/sources.list.d/docker-host-newer-suite.sources"
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        "Types: deb",
        "URIs: http://mirror.example.org/debian",
        "Suites: trixie",
        "Components: main",
        "Check-Valid-Until: no",
        "Signed-By:",
        " -----BEGIN PGP PUBLIC KEY BLOCK-----",
        " .",
        " mDMEawQEMRYJ",
        " -----END PGP PUBLIC KEY BLOCK-----",
    ]


def test_the_newer_suite_is_pinned_below_all_and_the_named_packages_above() -> None:
    pins = newer_suite_files(read_sources("/etc/apt/sources.list", ONE_LINE), BOOKWORM)[PIN_PATH]
    assert "Package: *\nPin: release n=trixie\nPin-Priority: 100\n" in pins
    assert "Package: docker-compose docker-buildx\nPin: release n=trixie\nPin-Priority: 990\n" in pins


def test_a_newer_suite_that_the_host_has_keeps_its_own_pins() -> None:
    text = ONE_LINE + "deb http://mirror.example.org/debian trixie main\n"
    files = newer_suite_files(read_sources("/etc/apt/sources.list", text), BOOKWORM)
    assert list(files) == [PIN_PATH]
    assert "Package: *" not in files[PIN_PATH]


def test_the_kits_own_source_of_an_earlier_run_is_written_again() -> None:
    entries = read_sources("/etc/apt/sources.list", ONE_LINE)
    own = read_sources(
        "/etc/apt/sources.list.d/docker-host-newer-suite.list", "deb http://old.example.org/d trixie main"
    )
    assert newer_suite_files(own + entries, BOOKWORM) == newer_suite_files(entries, BOOKWORM)


@pytest.mark.parametrize("text", ["", "deb http://mirror.example.org/debian-security bookworm-security main\n"])
def test_a_host_without_its_own_main_archive_is_told_which_line_to_add(text: str) -> None:
    with pytest.raises(KitError, match="sources") as error:
        choose("debian", "12", details=details(text))
    assert "bookworm main" in error.value.remedy


def test_disabled_and_source_entries_are_passed_over() -> None:
    entries = read_sources("/etc/apt/sources.list.d/debian.sources", DEB822)
    assert [entry.uris for entry in entries] == [
        ("http://mirror.example.org/debian",),
        ("http://mirror.example.org/debian-security",),
    ]
    assert [entry.types for entry in read_sources("/etc/apt/sources.list", ONE_LINE)] == [
        ("deb-src",),
        ("deb",),
        ("deb",),
    ]


def test_the_fingerprint_is_gpgs() -> None:
    assert key_fingerprints(KEY) == (FINGERPRINT,)
    assert key_fingerprints(KEY.replace("\n", "\r\n")) == (FINGERPRINT,)
    assert key_fingerprints(KEY.replace("BLOCK-----\n\n", "BLOCK-----\nComment: a header\n\n", 1)) == (FINGERPRINT,)


@pytest.mark.parametrize("text", ["", "<html>proxy login</html>", KEY.replace("mDME", "????"), KEY[:200]])
def test_what_is_no_key_has_no_fingerprint(text: str) -> None:
    assert key_fingerprints(text) == ()


@pytest.mark.parametrize("key", [KEY + KEY, KEY.replace("mDMEawQE", "mDMEawQF"), "<html>proxy login</html>"])
def test_a_key_file_that_holds_another_key_is_refused(key: str) -> None:
    with pytest.raises(KitError, match=FINGERPRINT) as error:
        docker_files(Reach(REPOSITORY, key=key, suite=True), "debian", "trixie", (), FINGERPRINT)
    assert error.value.code == "engine_key"


def test_a_docker_repository_that_the_host_has_is_left_alone() -> None:
    entries = read_sources("/etc/apt/sources.list.d/docker.list", f"deb {REPOSITORY}/debian/ trixie stable\n")
    assert docker_files(REACHED, "debian", "trixie", entries, FINGERPRINT) == {}


def test_the_hosts_details_are_read() -> None:
    encoded = base64.b64encode(ONE_LINE.encode()).decode()
    seen = read_details(
        f"kit:source /etc/apt/sources.list {encoded}\r\n"
        "kit:package ii  docker.io 20.10.24+dfsg1-1+deb12u1+b6\n"
        "kit:package rc  docker-ce 5:27.5.1\nkit:package un  docker-ce-cli \nkit:apparmor yes\nkit:end \n"
    )
    assert seen == details(installed={"docker.io": "20.10.24+dfsg1-1+deb12u1+b6"}, apparmor=True)


def test_the_repositorys_answers_are_judged() -> None:
    good = {"status": 200, "content": KEY}
    bad = {"status": -1, "url": f"{REPOSITORY}/debian/gpg", "msg": "Name or service not known"}
    assert reach_of(REPOSITORY, [good, {"status": 200}]) == REACHED
    assert "Name or service not known" in reach_of(REPOSITORY, [bad]).answer
    assert not reach_of(REPOSITORY, [good, {"status": 404, "msg": "Not Found"}]).suite
    assert not reach_of(REPOSITORY, []).suite
