"""The test bed's choices, without an engine."""

import os
from hashlib import sha1
from itertools import product
from pathlib import Path
from runpy import run_path

import pytest
from kit_engine import machine
from testbed.errors import TestbedError
from testbed.fixtures import chosen_distros, chosen_turn
from testbed.flags import DISTROS, EngineFacts, bounding_set, dropped_capabilities, host_options, init_command
from testbed.hosts import MANUAL, is_leftover, this_process
from testbed.image import image_name
from testbed.machine import Inherited

ALL_CAPABILITIES = 0x1FFFFFFFFFF
WITHOUT_RESOURCE = 0x1FFFEFFFFFF

DEB822 = """\
Types: deb
# http://snapshot.example.com/archive
URIs: http://mirror.example.com/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/company.gpg

Types: deb
URIs: http://mirror.example.com/security
Suites:
 bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://mirror.example.com/other
Suites: bookworm
Components: main

Types: deb-src
URIs: http://mirror.example.com/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://vendor.example.com/tool
Suites: tool-bookworm
Components: main
"""

PEM = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----"


def pairs(options: list[str]) -> set[tuple[str, str]]:
    """Options as (name, value)."""
    return set(zip(options[::2], options[1::2], strict=True))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("mask", "resource_dropped"), [(ALL_CAPABILITIES, False), (WITHOUT_RESOURCE, True)], ids=["full", "without"]
)
def test_capabilities(version: int, mask: int, resource_dropped: bool) -> None:
    facts = EngineFacts(version, mask)
    dropped = {value for name, value in pairs(host_options(facts, "v")) if name == "--cap-drop"}
    assert dropped == set(dropped_capabilities(facts))
    assert {"SYS_TIME", "SYS_MODULE"} <= dropped
    assert ("SYS_RESOURCE" in dropped) is resource_dropped


def test_the_bounding_set_is_read_from_the_process_status() -> None:
    assert bounding_set("Name:\tpytest\nCapEff:\t0\nCapBnd:\t000001fffeffffff\n") == WITHOUT_RESOURCE
    with pytest.raises(ValueError, match="no CapBnd"):
        bounding_set("Name:\tpytest\n")


def test_the_old_cgroup_tree_is_shared_and_named_to_systemd() -> None:
    facts = EngineFacts(1, ALL_CAPABILITIES)
    options = pairs(host_options(facts, "v"))
    assert {("--cgroupns", "host"), ("--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw")} <= options
    assert init_command(facts, "bookworm") == ("/sbin/init", "systemd.unified_cgroup_hierarchy=0")
    assert init_command(facts, "trixie")[-1] == "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"


@pytest.mark.parametrize("distro", DISTROS)
def test_the_new_cgroup_tree_is_the_hosts_own(distro: str) -> None:
    facts = EngineFacts(2, ALL_CAPABILITIES)
    options = pairs(host_options(facts, "v"))
    assert ("--cgroupns", "private") in options
    assert [value for _, value in options if "/sys/fs/cgroup" in value] == []
    assert init_command(facts, distro)[-1] == "mount -o remount,rw /sys/fs/cgroup && exec /sbin/init"


def test_each_host_has_an_engine_folder_of_its_own() -> None:
    assert ("--volume", "name-1:/var/lib/docker") in pairs(host_options(EngineFacts(2, 0), "name-1"))


def test_sources_of_the_machine_become_those_of_the_host() -> None:
    found = machine.sources_for("trixie", "bookworm", machine.parse_sources(DEB822, deb822=True))
    company, security = found
    assert company.uris == ("http://mirror.example.com/debian",)
    assert company.suites == ("trixie", "trixie-updates")
    assert company.components == ("main",)
    assert company.signed_by == "/usr/share/keyrings/company.gpg"
    assert security.suites == ("trixie-security",)
    assert security.signed_by == machine.DEFAULT_KEYRING
    assert machine.parse_sources(machine.render_sources(found), deb822=True) == found


def test_one_line_sources_are_read_too() -> None:
    text = (
        "# deb http://off.example.com/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://mirror.example.com/debian bookworm main # x\n"
        "deb-src http://mirror.example.com/debian bookworm main\n"
        "deb http://mirror.example.com/debian bookworm-updates main non-free\n"
    )
    first, second = machine.sources_for("bookworm", "bookworm", machine.parse_sources(text, deb822=False))
    assert (first.suites, first.signed_by) == (("bookworm",), "/usr/share/keyrings/k.gpg")
    assert (second.suites, second.components) == (("bookworm-updates",), ("main",))


def test_only_added_certificates_are_taken_over() -> None:
    stock, company = PEM.format("AAAA"), PEM.format("BB\nBB")
    bundle = f"# a comment\n{PEM.format('AA' + chr(10) + 'AA')}\n{company}\n{company}\n"
    assert machine.added_certificates(bundle, [stock + "\n"]) == [company + "\n"]


def test_pip_takes_over_addresses_and_no_folders() -> None:
    text = (
        "[global]\ncert = /etc/ssl/bundle.crt\nfind-links = /opt/wheels\nproxy = http://proxy.example.com:3128\n"
        "extra-index-url = file:///opt/index https://index.example.com/simple\n[install]\nuser = true\n"
    )
    assert machine.pip_settings(text) == {
        "extra-index-url": "https://index.example.com/simple",
        "proxy": "http://proxy.example.com:3128",
    }


def test_apt_takes_over_proxies_and_clock_checks_only() -> None:
    dump = (
        'APT "";\nAcquire "";\nAcquire::http "";\nAcquire::http::Proxy "http://proxy.example.com:3142";\n'
        'Acquire::https::Proxy::internal.example.com "DIRECT";\nAcquire::Check-Date "false";\n'
        'Acquire::Retries "";\nAcquire::GzipIndexes "true";\nDir::Cache "var/cache/apt";\n'
    )
    assert machine.apt_settings(dump) == [
        'Acquire::http::Proxy "http://proxy.example.com:3142";',
        'Acquire::https::Proxy::internal.example.com "DIRECT";',
        'Acquire::Check-Date "false";',
    ]


def test_the_image_is_named_by_its_content() -> None:
    taken = Inherited("Types: deb\n", (), (), (), ())
    name = image_name("trixie", taken)
    assert name == image_name("trixie", taken)
    assert name.startswith("kit-testbed/trixie:")
    other = Inherited("Types: deb\n", (), (), (PEM.format("AAAA"),), ())
    assert image_name("trixie", other) != name


def test_a_run_is_a_leftover_when_its_owner_is_dead() -> None:
    namespace, pid, started = this_process().split(":")
    assert not is_leftover(this_process(), checkout_exists=False)
    assert is_leftover(f"{namespace}:{pid}:{int(started) - 1}", checkout_exists=True), "the number was given again"
    assert is_leftover(f"{namespace}:999999999:1", checkout_exists=True)
    assert not is_leftover("1:999999999:1", checkout_exists=True), "another process namespace cannot be judged"


def test_a_dead_child_nobody_asked_after_is_dead() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    try:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        started = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[19]
        assert is_leftover(f"{this_process().partition(':')[0]}:{child}:{started}", checkout_exists=True)
    finally:
        os.waitpid(child, 0)


def test_hosts_brought_up_by_hand_stay_while_their_checkout_does() -> None:
    assert not is_leftover(MANUAL, checkout_exists=True)
    assert is_leftover(MANUAL, checkout_exists=False)


@pytest.mark.parametrize(
    ("wish", "commit", "expected"),
    [
        ("all", "", ("bookworm", "trixie")),
        ("", "0a", ("bookworm",)),
        ("", "0b", ("trixie",)),
        ("", "", ("bookworm",)),
        ("trixie", "0a", ("trixie",)),
        ("trixie,bookworm", "", ("trixie", "bookworm")),
    ],
)
def test_which_releases_are_tested(wish: str, commit: str, expected: tuple[str, ...]) -> None:
    assert tuple(chosen_distros(wish, commit)) == expected


def test_every_part_of_every_story_has_its_turn_on_every_release() -> None:
    """A slice of the kill matrix, or a way to end a release, that comes with no commit is never tested in CI."""
    tests = Path(__file__).parents[1]
    stories = run_path(str(tests / "conftest.py"))
    slices = run_path(str(tests / "faults/test_slice.py"))
    ends = run_path(str(tests / "integration/test_release_recovery.py"))
    told = {name: number for number, story in enumerate(stories["STORIES"]) for name in story}
    seen: dict[str, set[tuple[str, int]]] = {"slice": set(), "end": set()}
    for number in range(20_000):
        commit = sha1(str(number).encode(), usedforsecurity=False).hexdigest()
        story = chosen_turn(len(stories["STORIES"]), stories["STORY"], commit)
        release = chosen_distros("", commit)[0]
        if story == told["faults/test_slice.py"]:
            seen["slice"].add((release, chosen_turn(slices["EACH"], slices["SLICE"], commit)))
        if story == told["integration/test_release_recovery.py"]:
            seen["end"].add((release, chosen_turn(len(ends["ENDS"]), ends["END"], commit)))
    assert seen["slice"] == set(product(DISTROS, range(slices["EACH"])))
    assert seen["end"] == set(product(DISTROS, range(len(ends["ENDS"]))))


def test_an_unknown_release_is_told() -> None:
    with pytest.raises(TestbedError, match="FRESH_DISTROS=sid"):
        chosen_distros("sid", "")
