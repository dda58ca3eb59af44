"""What a look at a host is made into: nothing to do, parts that lack something, notes, or a refusal."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from kit_control import host_firewall, host_setup
from kit_control.errors import KitError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJh0 anna@laptop"
# A provider's image lets root's key in only to say that another user shall be taken.
FORBIDDEN = 'no-port-forwarding,command="echo log in as admin" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJh0 anna@laptop'
ROOT = "/srv/shop"
NOW = 1_780_000_000.0
SETTINGS = {
    "user": True,
    "user_name": "deploy",
    "user_keys": [],
    "user_sudo": True,
    "user_docker_group": False,
    "deploy_root": True,
    "deploy_root_path": ROOT,
    "time": True,
    "clock_seconds": 300,
    "updates": True,
    "offsite": False,
    "firewall": True,
    "open_ports": ["ssh", 80],
    "trusted_interfaces": ["docker*", "br-*"],
    "ssh_hardening": False,
}
PARTS = ("user", "deploy_root", "time", "updates", "firewall", "ssh")


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# A fresh server as a provider hands it out: root's login, Debian, nothing of ours.
FRESH = {
    "now": f"{NOW:.0f}",
    "uid": "0",
    "os": "Debian GNU/Linux 13 (trixie)",
    "systemd": "yes",
    "container": "none",
    "apt": "yes",
    "python": "3.13",
    "sudo": "yes",
    "session": "192.0.2.7 50000 192.0.2.10 2222",
    "ssh_drop_ins": "yes",
    "login": "root",
    "login_keys": encoded(f"{FORBIDDEN}\n{KEY}\n"),
    "sshd": ["port 22", "passwordauthentication yes", "kbdinteractiveauthentication no", "permitrootlogin yes"],
    "unit": ["apt-daily.timer enabled active", "apt-daily-upgrade.timer enabled active", "chrony  inactive"],
    "uplink": ["eth0", "eth0"],
}
RULES = host_firewall.rules(["ssh", 80], [22, 2222], ["eth0"], ["docker*", "br-*"])
# The same once everything is in place.
READY = {
    **FRESH,
    "login": "deploy",
    "nft": "yes",
    "user": "1000",
    "password": "L",
    "groups": "deploy",
    "keys": encoded(f"{KEY}\n"),
    "administers": "yes",
    "path": [f"{ROOT} directory:root:root:755", f"{ROOT}/releases directory:root:root:700",
             f"{ROOT}/records directory:root:root:755"],
    "filled": "yes",
    "unit": ["apt-daily.timer enabled active", "apt-daily-upgrade.timer enabled active",
             "systemd-timesyncd enabled active", "kit-firewall.service enabled active"],
    "package": ["systemd-timesyncd", "unattended-upgrades", "nftables"],
    "updates": encoded(host_setup.UPDATES),
    "rules": encoded(RULES),
    "rules_unit": encoded(host_firewall.UNIT),
    "rules_loaded": "yes",
}  # fmt: skip


def probe(seen: dict[str, Any]) -> str:
    lines = [(name, value) for name, given in seen.items() for value in (given if isinstance(given, list) else [given])]
    return "".join(f"kit:{name} {value}\r\n" for name, value in lines) + "kit:end \n"


def plan(seen: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return host_setup.plan(host_setup.read_probe(probe(seen)), {**SETTINGS, **settings}, "web1", NOW)


def refusal(seen: dict[str, Any], **settings: Any) -> KitError:
    with pytest.raises(KitError) as error:
        plan(seen, **settings)
    return error.value


def without(seen: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in seen.items() if name not in names}


def test_a_host_that_is_in_place_needs_nothing() -> None:
    decided = plan(READY)
    assert {part: decided[part] for part in PARTS} == {part: {} for part in PARTS}
    assert (decided["packages"], decided["notes"]) == ([], [])


def test_a_fresh_host_needs_all_that_was_not_switched_off() -> None:
    decided = plan(FRESH)
    assert decided["packages"] == ["systemd-timesyncd", "unattended-upgrades", "nftables"]
    # Only the key without conditions is taken over.
    assert decided["user"] == {"words": ["deploy", "yes", "no"], "input": f"{KEY}\n"}
    assert decided["deploy_root"] == {"words": [ROOT]}
    assert decided["time"] == {"words": ["systemd-timesyncd.service"]}
    assert decided["firewall"]["open"] == "22/tcp, 80/tcp, 2222/tcp"
    assert decided["ssh"] == {}
    off = plan(FRESH, **dict.fromkeys(("user", "deploy_root", "time", "updates", "firewall"), False))
    assert [off[part] for part in PARTS] == [{}] * len(PARTS)
    assert off["packages"] == []


def test_a_host_whose_backups_are_copied_gets_what_copies_them() -> None:
    asked = {**dict.fromkeys(("user", "deploy_root", "time", "updates", "firewall"), False), "offsite": True}
    assert plan(FRESH, **asked)["packages"] == ["restic", "openssh-client"]
    assert plan({**FRESH, "restic": "yes", "ssh": "yes"}, **asked)["packages"] == []


def test_a_minimal_host_gets_python_and_sudo() -> None:
    assert plan(without(FRESH, "python", "sudo"))["packages"][:2] == ["python3", "sudo"]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"keys": encoded("ssh-rsa AAAA other\n")}, ""),
        ({"path": [READY["path"][0], f"{ROOT}/releases directory:root:root:755", READY["path"][2]]}, "deploy_root"),
        ({"updates": encoded("// by hand\n")}, "updates"),
        ({"unit": [*READY["unit"][1:], "apt-daily.timer disabled inactive"]}, "updates"),
        ({"rules": encoded(RULES.replace("80", "8080"))}, "firewall"),
        ({"uplink": ["eth1"]}, "firewall"),
        ({"unit": [*READY["unit"][:3], "kit-firewall.service disabled inactive"]}, "firewall"),
    ],
)
def test_what_differs_is_brought_in_line_and_nothing_else(changes: dict[str, Any], part: str) -> None:
    decided = plan({**READY, **changes})
    assert [name for name in PARTS if decided[name]] == ([part] if part else [])


def test_rules_that_are_on_the_disk_only_are_loaded() -> None:
    assert plan(without(READY, "rules_loaded"))["firewall"]["input"] == RULES


def test_keys_that_were_given_are_added() -> None:
    new = "ssh-ed25519 AAAAnew bert"
    assert plan(READY, user_keys=[new, KEY])["user"] == {"words": ["deploy", "no", "no"], "input": f"{new}\n"}


@pytest.mark.parametrize("unit", ["chrony", "chronyd", "ntpsec", "systemd-timesyncd"])
def test_another_keeper_of_the_time_is_left_alone(unit: str) -> None:
    assert plan({**FRESH, "unit": [f"{unit} enabled active"]})["time"] == {}


def test_an_installed_keeper_of_the_time_is_started_rather_than_replaced() -> None:
    decided = plan({**FRESH, "package": ["chrony"]})
    assert decided["time"] == {"words": ["chrony.service"]}
    assert "systemd-timesyncd" not in decided["packages"]


def test_a_containers_clock_is_left_alone_visibly() -> None:
    decided = plan({**FRESH, "container": "docker"})
    assert decided["time"] == {}
    assert "container (docker)" in decided["notes"][0]


def test_ssh_is_hardened_only_from_the_deploy_users_own_login() -> None:
    assert "not hardened yet" in plan({**READY, "login": "root"}, ssh_hardening=True)["notes"][0]
    assert plan(READY, ssh_hardening=True)["ssh"] == {"input": host_setup.HARDENING}
    effective = [
        "passwordauthentication no",
        "kbdinteractiveauthentication no",
        "permitrootlogin no",
        "x11forwarding no",
    ]
    done = {**READY, "sshd": ["port 22", *effective], "ssh_drop_in": encoded(host_setup.HARDENING)}
    assert plan(done, ssh_hardening=True)["ssh"] == {}


@pytest.mark.parametrize(
    ("seen", "settings", "problem", "remedy"),
    [
        ({**READY, "now": f"{NOW - 7200:.0f}"}, {}, "web1 is 2 h 0 min behind", "timedatectl set-ntp true"),
        ({**READY, "now": f"{NOW + 400:.0f}"}, {}, "web1 is 7 min ahead of", "timedatectl"),
        ({**READY, "uid": "1000"}, {}, "not root's", "ansible_become_user"),
        ({**READY, "python": "3.8"}, {}, "Python on web1", "Debian 12"),
        (without(READY, "systemd"), {}, "not run by systemd", "host_setup_firewall"),
        (without(FRESH, "apt", "python"), {"updates": False}, "lacks python3", "install python3"),
        (without(FRESH, "login_keys"), {}, "No public key is known", "host_setup_user_keys"),
        (FRESH, {"user_keys": ["id_ed25519.pub"]}, "no public key", "~/.ssh/id_ed25519.pub"),
        (FRESH, {"user_name": "root"}, "cannot be the deploy user", "deploy"),
        (FRESH, {"deploy_root_path": "/srv"}, "not a folder that the kit may call its own", "/srv/shop"),
        (FRESH, {"deploy_root_path": "/srv/../etc"}, "not a folder", "/srv/shop"),
        ({**FRESH, "path": f"{ROOT} symbolic-link"}, {}, "no folder but a symbolic link", "ls -ld"),
        ({**FRESH, "path": f"{ROOT} directory:anna:anna:755", "filled": "yes"}, {}, "not the kit's", "deploy_root:"),
        (FRESH, {"open_ports": ["https"]}, "'https' is no port", "443/udp"),
        (FRESH, {"open_ports": [70000]}, "70000 is no port", "443"),
        (FRESH, {"trusted_interfaces": ['x" accept']}, "no name of an interface", "wg0"),
        (without(READY, "ssh_drop_ins"), {"ssh_hardening": True}, "sshd_config.d", "host_setup_ssh_hardening"),
    ],
)  # fmt: skip
def test_what_a_person_must_decide_is_refused(
    seen: dict[str, Any], settings: dict[str, Any], problem: str, remedy: str
) -> None:
    error = refusal(seen, **settings)
    assert problem in error.problem
    assert remedy in error.remedy


def test_a_look_that_ended_early_is_refused() -> None:
    with pytest.raises(KitError, match="ended early"):
        host_setup.read_probe("kit:now 1\nbash: line 3: date: command not found\n")


def test_ports_are_joined_where_they_touch() -> None:
    wanted = ["ssh", 443, "443/udp", "8000-8010", "8005-8020/tcp", "8021", "443"]
    assert host_firewall.ports_of(wanted, [22]) == {"tcp": ["22", "443", "8000-8021"], "udp": ["443"]}
