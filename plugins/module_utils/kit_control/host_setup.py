"""What a host lacks before it can be deployed to, decided from one look at it.

The look (roles/host_setup/files/probe.sh) prints lines of ``kit:<name> <value>``; everything here is pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from kit_control import docker_engine, host_firewall
from kit_control.errors import KitError

OLDEST_PYTHON = (3, 9)
# Who keeps the time, by package: the unit that does it.
TIME_SERVICES = {
    "chrony": "chrony",
    "ntpsec": "ntpsec",
    "ntp": "ntp",
    "openntpd": "openntpd",
    "systemd-timesyncd": "systemd-timesyncd",
}
# The same under other distributions' names: left alone where active.
TIME_UNITS = (*TIME_SERVICES.values(), "chronyd", "ntpd")
UPDATE_TIMERS = ("apt-daily.timer", "apt-daily-upgrade.timer")
FIREWALL_UNIT = "kit-firewall.service"
UPDATES = """\
// Written by the deployment kit, role host_setup. What is upgraded stands in 50unattended-upgrades, as the
// distribution has it: security updates, and on Debian those of the stable release.
APT::Periodic::Update-Package-Lists "1";
APT::Periodic::Unattended-Upgrade "1";
"""
HARDENING = """\
# Written by the deployment kit, role host_setup.
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
X11Forwarding no
"""
# The deploy root's folders with the modes of kit_engine.releases.
FOLDERS = {"": "755", "releases": "700", "records": "755"}

_USER = re.compile(r"^[a-z_][a-z0-9_-]{0,31}$")
_KEY = re.compile(r"^(ssh-(rsa|ed25519)|ecdsa-sha2-\S+|sk-\S+) [A-Za-z0-9+/=]+( .*)?$")


@dataclass(frozen=True)
class Found:
    """What the look at a host showed.

    Attributes:
        now: its clock, in seconds since 1970.
        uid: of whoever looked; 0 is root.
        system: name of its operating system.
        login: user whose login it was.
        session: addresses and ports of that login's connection, empty where it is none of SSH.
        python: version, such as ``3.11``; empty without one.
        has: of ``systemd apt sudo nft restic ssh ssh_drop_ins administers filled rules_loaded``, those that hold.
        container: kind of container that the host is; empty for a machine.
        user: the deploy user's number, empty where there is no such user.
        password: its password's state as of ``passwd -S``: ``P`` is one that can be typed.
        groups: its groups.
        files: text of files by the probe's names for them.
        paths: facts of the deploy root's folders by path.
        units: state by unit: enabled, active.
        packages: those of the ones asked for that are installed.
        sshd: settings that sshd goes by.
        ssh_ports: where sshd listens.
        uplinks: interfaces with a default route.
    """

    now: int
    uid: int
    system: str
    login: str
    session: str = ""
    python: str = ""
    has: frozenset[str] = frozenset()
    container: str = ""
    user: str = ""
    password: str = ""
    groups: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    packages: frozenset[str] = frozenset()
    sshd: Mapping[str, str] = field(default_factory=dict)
    ssh_ports: tuple[int, ...] = ()
    uplinks: tuple[str, ...] = ()


def read_probe(text: str) -> Found:
    """Read what probe.sh printed.

    Args:
        text: its standard output.

    Raises:
        KitError: it did not run to its end.
    """
    if not re.search(r"(?m)^kit:end\s*$", text):
        raise KitError(
            "host",
            f"The look at the host ended early; it said: {text.strip()[-300:] or 'nothing'}",
            "log in on the host the way Ansible does, and see whether `sh` works there as root",
        )
    seen = docker_engine.fields(text)

    def first(name: str) -> str:
        return seen.get(name, [""])[0]

    sshd = [line.partition(" ") for line in seen.get("sshd", [])]
    ports = {int(value) for name, _, value in sshd if name == "port"}
    session = first("session").split()
    # Where sshd really listens can be said elsewhere (a socket unit): the port of this login is one for certain.
    ports |= {int(session[3])} if len(session) == 4 else set()
    units = [[*line.split(), "", ""] for line in seen.get("unit", [])]
    flags = ("systemd", "apt", "sudo", "nft", "restic", "ssh", "ssh_drop_ins", "administers", "filled", "rules_loaded")
    texts = ("ssh_drop_in", "keys", "login_keys", "updates", "rules", "rules_unit")
    return Found(
        now=int(first("now")),
        uid=int(first("uid")),
        system=first("os"),
        login=first("login"),
        session=first("session"),
        python=first("python"),
        has=frozenset(name for name in flags if name in seen),
        container=first("container").replace("none", ""),
        user=first("user"),
        password=first("password"),
        groups=tuple(first("groups").split()),
        files={name: docker_engine.decode(first(name)) for name in texts if name in seen},
        paths={path: facts for path, _, facts in (line.partition(" ") for line in seen.get("path", []))},
        units={name: (enabled, active) for name, enabled, active, *_ in units},
        packages=frozenset(seen.get("package", [])),
        sshd={name: value for name, _, value in sshd if name != "port"},
        ssh_ports=tuple(sorted(ports)),
        uplinks=tuple(dict.fromkeys(seen.get("uplink", []))),
    )


def plan(found: Found, settings: Mapping[str, Any], host: str, clock: float) -> dict[str, Any]:
    """Decide what is to be done on a host.

    Args:
        found: the look at it.
        settings: the role's inputs without their prefix.
        host: its name, for messages.
        clock: this machine's time when it was asked, in seconds since 1970.

    Returns:
        ``packages`` to install, one entry for each part that has something to do (``user``, ``deploy_root``, ``time``,
        ``updates``, ``firewall``, ``ssh``; empty where there is nothing), and ``notes`` on what is left alone and why.

    Raises:
        KitError: something that a person has to decide; the host was not changed.
    """
    _refuse(found, settings, host, clock)
    notes: list[str] = []
    parts = {
        "user": _user(found, settings, host, notes) if settings["user"] else {},
        "deploy_root": _deploy_root(found, settings, host) if settings["deploy_root"] else {},
        "time": _time(found, notes) if settings["time"] else {},
        "updates": _updates(found, notes) if settings["updates"] else {},
        "offsite": _offsite(found) if settings["offsite"] else {},
        "firewall": _firewall(found, settings) if settings["firewall"] else {},
        "ssh": _ssh(found, settings, host, notes) if settings["ssh_hardening"] else {},
    }
    packages = [] if found.python else ["python3"]
    for part in parts.values():
        packages += [name for name in part.pop("packages", []) if name not in packages]
    if packages and "apt" not in found.has:
        raise KitError(
            "host",
            f"{host} ({found.system or 'an unknown system'}) lacks {', '.join(packages)}, and has no apt-get to "
            "install them with.",
            f"on {host}, install {' '.join(packages)} by its own means; or use Debian or Ubuntu",
        )
    return {**parts, "packages": packages, "notes": notes}


def _refuse(found: Found, settings: Mapping[str, Any], host: str, clock: float) -> None:
    if found.uid != 0:
        raise KitError(
            "sudo", f"The look at {host} was not root's but user {found.uid}'s.", "set ansible_become_user: root"
        )
    apart = found.now - clock
    if abs(apart) > int(settings["clock_seconds"]):
        raise KitError(
            "clock",
            f"The clock of {host} is {_span(abs(apart))} {'ahead of' if apart > 0 else 'behind'} this machine's; apt "
            "and TLS would judge signatures and certificates wrongly. Nothing was changed.",
            f"on {host}: timedatectl set-ntp true    (or date --set), then: make provision again",
        )
    if found.python and _version(found.python) < OLDEST_PYTHON:
        raise KitError(
            "python",
            f"Python on {host} ({found.system}) is {found.python}; the engine needs 3.9 or later. Nothing was changed.",
            f"upgrade {host}: Debian 12 has 3.11",
        )
    if "systemd" not in found.has and any(settings[part] for part in ("time", "updates", "firewall", "ssh_hardening")):
        raise KitError(
            "host",
            f"{host} is not run by systemd, which time, updates, firewall and SSH hardening need. Nothing was changed.",
            "set these to false: host_setup_time, host_setup_updates, host_setup_firewall, host_setup_ssh_hardening",
        )


def _user(found: Found, settings: Mapping[str, Any], host: str, notes: list[str]) -> dict[str, Any]:
    name = str(settings["user_name"])
    if not _USER.match(name) or name == "root":
        raise KitError(
            "inventory", f"host_setup_user_name: {name!r} cannot be the deploy user.", "write such as deploy"
        )
    given = [str(key).strip() for key in settings["user_keys"]]
    for key in given:
        if not _KEY.match(key):
            raise KitError(
                "inventory",
                f"host_setup_user_keys: {key[:30]!r}… is no public key.",
                "write the line of a file such as ~/.ssh/id_ed25519.pub",
            )
    # Without any given: whoever may log in now may log in as the deploy user.
    keys = given or ([] if name == found.login else _keys(found.files.get("login_keys", "")))
    present = _lines(found.files.get("keys", ""))
    new = [key for key in keys if key not in present]
    if not keys and not present:
        raise KitError(
            "inventory",
            f"No public key is known that would open {host} for the deploy user {name}. Nothing was changed.",
            "write host_setup_user_keys: [ssh-ed25519 AAAA…] (your ~/.ssh/id_ed25519.pub)",
        )
    sudo = bool(settings["user_sudo"]) and "administers" not in found.has
    docker = bool(settings["user_docker_group"]) and "docker" not in found.groups
    if found.password == "P":  # noqa: S105 - the state, not a password
        notes.append(
            f"user {name} has a password; host_setup_ssh_hardening: true closes the login by password"
            if found.sshd.get("passwordauthentication") == "yes"
            else f"user {name} has a password; over SSH it opens nothing"
        )
    if found.user and not (new or sudo or docker):
        return {}
    # sudo also where only its own files would tell: a user that is new has no right yet.
    words = [name, *("yes" if wish else "no" for wish in (sudo, docker))]
    packages = ["sudo"] if sudo and "sudo" not in found.has else []
    return {"words": words, "input": "".join(f"{key}\n" for key in new), "packages": packages}


def _deploy_root(found: Found, settings: Mapping[str, Any], host: str) -> dict[str, Any]:
    root = str(settings["deploy_root_path"])
    path = PurePosixPath(root)
    if not path.is_absolute() or len(path.parts) < 3 or ".." in path.parts:
        raise KitError(
            "inventory",
            f"deploy_root: {root!r} is not a folder that the kit may call its own.",
            "write an absolute path of two parts or more, such as /srv/shop",
        )
    facts = found.paths.get(root, "")
    kind = facts.partition(":")[0]
    if facts and kind != "directory":
        raise KitError(
            "deploy_root", f"{root} on {host} is no folder but a {kind.replace('-', ' ')}.", f"on {host}: ls -ld {root}"
        )
    known = any(f"{root}/{name}" in found.paths for name in FOLDERS if name)
    if "filled" in found.has and not known:
        raise KitError(
            "deploy_root",
            f"{root} on {host} holds files that are not the kit's. Nothing was changed.",
            f"on {host}: ls -la {root}; or choose another folder: deploy_root: /srv/another",
        )
    wanted = {str(path / name) if name else root: f"directory:root:root:{mode}" for name, mode in FOLDERS.items()}
    return {"words": [root]} if any(found.paths.get(one) != facts for one, facts in wanted.items()) else {}


def _time(found: Found, notes: list[str]) -> dict[str, Any]:
    if found.container:
        notes.append(f"time: this host is a container ({found.container}); its clock is its machine's, nothing to do")
        return {}
    if any(found.units.get(unit, ("", ""))[1] == "active" for unit in TIME_UNITS):
        return {}
    installed = [name for name in TIME_SERVICES if name in found.packages]
    name = installed[0] if installed else "systemd-timesyncd"
    unit = TIME_SERVICES[name]
    if found.units.get(unit, ("", ""))[0] == "masked":
        notes.append(f"time: {unit} is masked, so somebody wants it off; left alone")
        return {}
    return {"words": [f"{unit}.service"], "packages": [] if installed else [name]}


def _updates(found: Found, notes: list[str]) -> dict[str, Any]:
    if "apt" not in found.has:
        notes.append("updates: no apt-get here; see to automatic security updates by this system's own means")
        return {}
    packages = [] if "unattended-upgrades" in found.packages else ["unattended-upgrades"]
    states = {timer: found.units.get(timer, ("", ""))[0] for timer in UPDATE_TIMERS}
    masked = [timer for timer, state in states.items() if state == "masked"]
    if masked:
        notes.append(f"updates: {' and '.join(masked)} masked, so somebody wants no updates; unmask to have them")
    timers = [timer for timer, state in states.items() if state == "disabled"]
    if not packages and not timers and found.files.get("updates") == UPDATES:
        return {}
    return {"words": timers, "input": UPDATES, "packages": packages}


def _offsite(found: Found) -> dict[str, Any]:
    """What copies of backups are made by, and how it reaches a place by SFTP."""
    wanted = {"restic": "restic", "ssh": "openssh-client"}
    return {"packages": [package for program, package in wanted.items() if program not in found.has]}


def _firewall(found: Found, settings: Mapping[str, Any]) -> dict[str, Any]:
    rules = host_firewall.rules(
        settings["open_ports"], found.ssh_ports, found.uplinks, [str(name) for name in settings["trusted_interfaces"]]
    )
    on = found.units.get(FIREWALL_UNIT) == ("enabled", "active") and "rules_loaded" in found.has
    if on and found.files.get("rules") == rules and found.files.get("rules_unit") == host_firewall.UNIT:
        return {}
    return {
        "input": rules,
        "keep_input": host_firewall.UNIT,
        "packages": [] if "nft" in found.has else ["nftables"],
        "open": ", ".join(
            f"{numbers}/{protocol}"
            for protocol, listed in host_firewall.ports_of(settings["open_ports"], found.ssh_ports).items()
            for numbers in listed
        ),
    }


def _ssh(found: Found, settings: Mapping[str, Any], host: str, notes: list[str]) -> dict[str, Any]:
    name = str(settings["user_name"])
    if found.login != name:
        notes.append(
            f"ssh: not hardened yet, since this login is {found.login}'s and could be closed by it; once ansible_user "
            f"is {name}, run make provision again"
        )
        return {}
    if "ssh_drop_ins" not in found.has:
        raise KitError(
            "ssh",
            f"{host} has no /etc/ssh/sshd_config.d, where the settings would go. Nothing was changed.",
            "host_setup_ssh_hardening: false",
        )
    wanted = dict(line.lower().split() for line in HARDENING.splitlines() if not line.startswith("#"))
    effective = all(found.sshd.get(key) == value for key, value in wanted.items())
    return {} if effective and found.files.get("ssh_drop_in") == HARDENING else {"input": HARDENING}


def _lines(text: str) -> Sequence[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _keys(text: str) -> list[str]:
    """Keys without conditions: a provider's root often has lines that only print "log in as another user"."""
    return [line for line in _lines(text) if _KEY.match(line)]


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
