"""Host keys: read as OpenSSH's programs print them, compared, confirmed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from kit_control import known_hosts
from kit_control.errors import KitError
from kit_control.known_hosts import Key, Known, Way

ED25519 = Key("ssh-ed25519", "AAAAC3NzaC1lZDI1NTE5AAAAIF5nHvJ8yTS0ZBg8i4bmLtRV3Gx0XzVdnBrTFMdfvwPQ")
OTHER = Key("ssh-ed25519", "AAAAC3NzaC1lZDI1NTE5AAAAIAhD1Xy1m0qOY8ZC3e3NGLAyyOC9FQMJnkTDQ8qaEi1u")
RSA = Key("ssh-rsa", "AAAAB3NzaC1yc2EAAAADAQABAAAAgQDLxRnJgZ1Yt9NUZzGKnQ==")
WAY = Way("web1", "192.0.2.10", 2222, "[192.0.2.10]:2222", ("/home/anna/.ssh/known_hosts",))
OPTIONS = """\
user deploy
hostname 192.0.2.10
port 2222
stricthostkeychecking true
userknownhostsfile /tmp/a /tmp/b
globalknownhostsfile /etc/ssh/ssh_known_hosts
"""


def test_the_way_is_as_ssh_reads_it() -> None:
    way = known_hosts.way_of("web1", OPTIONS)
    assert (way.address, way.port, way.name) == ("192.0.2.10", 2222, "[192.0.2.10]:2222")
    assert way.files == ("/tmp/a", "/tmp/b", "/etc/ssh/ssh_known_hosts")  # noqa: S108 - read, not written
    assert (way.through, way.unchecked) == ("", False)
    assert known_hosts.way_of("web1", OPTIONS.replace("2222", "22")).name == "192.0.2.10"
    assert known_hosts.way_of("web1", f"{OPTIONS}hostkeyalias web\n").name == "web"
    assert known_hosts.way_of("web1", f"{OPTIONS}proxyjump bastion\n").through == "bastion"
    assert known_hosts.way_of("web1", OPTIONS.replace("checking true", "checking false")).unchecked


def test_options_of_the_inventory_reach_ssh(tmp_path: Path) -> None:
    file = tmp_path / "my_hosts"
    way = known_hosts.resolve("web1", ["-F", "none", f"-oUserKnownHostsFile={file}", "-p", "2022", "192.0.2.10"])
    assert (way.files[0], way.port) == (str(file), 2022)
    with pytest.raises(KitError, match="take any host key"):
        known_hosts.resolve("web1", ["-F", "none", "-oStrictHostKeyChecking=no", "192.0.2.10"])


def test_fingerprints_are_those_of_ssh_keygen(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    kind, blob, *_ = (tmp_path / "key.pub").read_text().split()
    told = subprocess.run(["ssh-keygen", "-lf", tmp_path / "key"], check=True, capture_output=True, text=True).stdout
    assert Key(kind, blob).fingerprint == told.split()[1]


def test_the_preferred_key_comes_first() -> None:
    text = f"# 192.0.2.10:22 SSH-2.0\nhost {RSA.kind} {RSA.blob}\nhost {ED25519.kind} {ED25519.blob}\n"
    assert known_hosts.keys_of(text) == ([ED25519, RSA], False)
    assert known_hosts.keys_of(f"@cert-authority *.example.com {RSA.kind} {RSA.blob}\n") == ([], True)


def test_a_known_key_is_enough() -> None:
    assert known_hosts.judge(WAY, Known(frozenset({ED25519})), [RSA, ED25519]).new == ()
    assert known_hosts.judge(WAY, Known(certified=True), [OTHER]).new == ()


def test_a_first_contact_is_to_be_confirmed() -> None:
    verdict = known_hosts.judge(WAY, Known(), [ED25519, RSA])
    assert verdict.new == (ED25519, RSA)
    error = known_hosts.unconfirmed([verdict], (), "make provision ENV=prod")
    assert f"CONFIRM_HOST_KEYS={ED25519.fingerprint} make provision ENV=prod" in error.remedy
    assert all(text in error.problem for text in ("web1 (192.0.2.10 port 2222)", ED25519.fingerprint, RSA.fingerprint))


@pytest.mark.parametrize("shown", [OTHER, RSA])
def test_another_key_than_the_known_one_is_refused(shown: Key) -> None:
    with pytest.raises(KitError) as error:
        known_hosts.judge(WAY, Known(frozenset({ED25519}), file="/home/anna/.ssh/known_hosts"), [shown])
    assert shown.fingerprint in error.value.problem
    assert "ssh-keygen -R '[192.0.2.10]:2222' -f /home/anna/.ssh/known_hosts" in error.value.remedy


def test_confirmations_are_fingerprints() -> None:
    two = f"{ED25519.fingerprint}, {OTHER.fingerprint}"
    assert known_hosts.confirmed(two) == {ED25519.fingerprint, OTHER.fingerprint}
    assert known_hosts.confirmed("") == frozenset()
    with pytest.raises(KitError, match="'yes' is no fingerprint"):
        known_hosts.confirmed("yes")


def test_a_kept_key_is_found_again(tmp_path: Path) -> None:
    file = tmp_path / "new/known_hosts"
    way = Way("web1", "192.0.2.10", 2222, "[192.0.2.10]:2222", (str(file),))
    assert known_hosts.look_up(way) == Known()
    known_hosts.write(way, [ED25519])
    with file.open("a") as lines:
        lines.write("other.example.com ssh-rsa AAAA")
    known_hosts.write(way, [RSA])
    assert known_hosts.look_up(way).keys == {ED25519, RSA}
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_key_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(KitError, match="cannot be kept"):
        known_hosts.write(Way("web1", "192.0.2.10", 22, "192.0.2.10", ("/dev/null",)), [ED25519])


def test_a_host_that_is_down_is_named_with_the_cause() -> None:
    with pytest.raises(KitError, match=r"web1 \(127.0.0.1 port 1\) cannot be reached: connection refused"):
        known_hosts.scan(Way("web1", "127.0.0.1", 1, "[127.0.0.1]:1", ()), Known())
