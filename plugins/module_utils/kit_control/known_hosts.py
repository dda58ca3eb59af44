"""The hosts' own keys: which are known, which changed, which a person has confirmed; and the programs that tell."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shlex
import socket
import subprocess
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kit_control.errors import KitError

# ssh-keyscan's own limit for one host's silence, and ours for the program.
SCAN_SECONDS, PROGRAM_SECONDS = 5, 20
# The one to show first: short, and every host has it.
_PREFERRED = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa")


@dataclass(frozen=True)
class Key:
    """A host key.

    Attributes:
        kind: such as ``ssh-ed25519``.
        blob: the key in base64.
    """

    kind: str
    blob: str

    @property
    def fingerprint(self) -> str:
        """As ``ssh-keygen -l`` prints it."""
        digest = hashlib.sha256(base64.b64decode(self.blob)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    @property
    def shown(self) -> str:
        """Kind and fingerprint, for people."""
        return f"{self.kind.removeprefix('ssh-').removeprefix('ecdsa-sha2-').upper()} {self.fingerprint}"


@dataclass(frozen=True)
class Way:
    """How SSH reaches a host, by its own reading of options and of ~/.ssh/config.

    Attributes:
        host: the host's name in the inventory.
        address: where the connection goes.
        port: of sshd.
        name: under which its key is kept, such as ``[192.0.2.10]:2222``.
        files: files of known hosts, the user's first; a new key goes into the first one.
        through: a jump host or a command in between, empty for none.
        unchecked: SSH was told to take any key.
    """

    host: str
    address: str
    port: int
    name: str
    files: tuple[str, ...]
    through: str = ""
    unchecked: bool = False

    @property
    def place(self) -> str:
        """Host and address, for messages."""
        return f"{self.host} ({self.address} port {self.port})"


@dataclass(frozen=True)
class Known:
    """What the files of known hosts hold for a host.

    Attributes:
        keys: its keys.
        certified: an authority vouches for it; SSH itself judges that.
        file: where the first of them stands.
    """

    keys: frozenset[Key] = frozenset()
    certified: bool = False
    file: str = ""


@dataclass(frozen=True)
class Verdict:
    """What is to be done about a host's key.

    Attributes:
        way: the host.
        new: keys that it shows and nobody has confirmed yet; empty for a known host.
    """

    way: Way
    new: tuple[Key, ...] = field(default=())


def way_of(host: str, options: str) -> Way:
    """Read what ``ssh -G`` printed.

    Args:
        host: the host's name in the inventory.
        options: its standard output.
    """
    values = {name: value for name, _, value in (line.partition(" ") for line in options.splitlines())}
    address, port = values.get("hostname", host), int(values.get("port", "22"))
    alias = values.get("hostkeyalias", "none")
    files = shlex.split(values.get("userknownhostsfile", "")) + shlex.split(values.get("globalknownhostsfile", ""))
    through = [values.get(name, "none") for name in ("proxyjump", "proxycommand")]
    return Way(
        host=host,
        address=address,
        port=port,
        name=alias if alias != "none" else address if port == 22 else f"[{address}]:{port}",
        files=tuple(str(Path(file).expanduser()) for file in files if file != "none"),
        through=next((value for value in through if value != "none"), ""),
        unchecked=values.get("stricthostkeychecking", "") in ("false", "no", "off"),
    )


def keys_of(text: str) -> tuple[list[Key], bool]:
    """Read lines of a file of known hosts, as ssh-keyscan and ``ssh-keygen -F`` print them.

    Args:
        text: the lines.

    Returns:
        The keys, the preferred kind first; and whether an authority's key is among them.
    """
    found, certified = [], False
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "@cert-authority":
            certified = True
        elif not words[0].startswith("@") and len(words) >= 3:
            found.append(Key(words[1], words[2]))
    rank = {kind: number for number, kind in enumerate(_PREFERRED)}
    return sorted(dict.fromkeys(found), key=lambda key: rank.get(key.kind, len(rank))), certified


def judge(way: Way, known: Known, shown: Sequence[Key]) -> Verdict:
    """Compare what a host shows with what is known of it.

    Args:
        way: the host.
        known: from the files.
        shown: what it shows now; at least one.

    Raises:
        KitError: it shows another key than the known one.
    """
    if known.certified or known.keys & set(shown):
        return Verdict(way)
    if not known.keys:
        return Verdict(way, tuple(shown))
    was = "\n".join(f"    known    {key.shown}    ({known.file})" for key in sorted(known.keys, key=str))
    now = "\n".join(f"    shown    {key.shown}" for key in shown)
    raise KitError(
        "host_key",
        f"Host {way.place} shows another host key than the known one: it was installed anew, or another machine "
        f"answers in its place. It was not logged in to.\n{was}\n{now}",
        "compare with its own (at its console: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub); if that is the one "
        f"shown: ssh-keygen -R {shlex.quote(way.name)} -f {shlex.quote(known.file)}, then: make provision",
    )


def confirmed(text: str) -> frozenset[str]:
    """Read the fingerprints of CONFIRM_HOST_KEYS.

    Args:
        text: with commas or blanks between.

    Raises:
        KitError: one is no fingerprint.
    """
    words = re.split(r"[\s,]+", text.strip()) if text.strip() else []
    for word in words:
        if not re.fullmatch(r"SHA256:[A-Za-z0-9+/]{43}", word):
            raise KitError(
                "host_key",
                f"CONFIRM_HOST_KEYS: {word!r} is no fingerprint.",
                "write such as CONFIRM_HOST_KEYS=SHA256:<43 characters>, several with commas between",
            )
    return frozenset(words)


def unconfirmed(verdicts: Iterable[Verdict], given: Collection[str], command: str) -> KitError:
    """Make the error that names fingerprints and the variable that confirms them.

    Args:
        verdicts: hosts whose keys nobody has confirmed.
        given: fingerprints that were confirmed, none of them theirs.
        command: what was typed.
    """
    waiting = list(verdicts)
    lines = [
        f"{verdict.way.place} shows a host key that is not known here:\n"
        + "\n".join(f"    {key.shown}" for key in verdict.new)
        for verdict in waiting
    ]
    if given:
        lines.append("None of them is in CONFIRM_HOST_KEYS.")
    ours = ",".join(verdict.new[0].fingerprint for verdict in waiting)
    return KitError(
        "host_key",
        "\n".join(lines) + "\nThey were not logged in to.",
        "compare with the hosts' own (the provider shows it, or at the console: ssh-keygen -lf "
        f"/etc/ssh/ssh_host_ed25519_key.pub); if they are the same: CONFIRM_HOST_KEYS={ours} {command}",
    )


def resolve(host: str, words: Sequence[str]) -> Way:
    """Ask ssh how it would reach a host.

    Args:
        host: the host's name in the inventory.
        words: ssh's arguments, address last.

    Raises:
        KitError: ssh does not take them.
    """
    done = _program(["ssh", "-G", *words])
    if done.returncode:
        raise KitError(
            "inventory",
            f"{host}: ssh does not take its options: {done.stderr.strip()}",
            "mend ansible_ssh_common_args in the inventory",
        )
    way = way_of(host, done.stdout)
    if way.unchecked:
        raise KitError(
            "host_key",
            f"{host}: SSH was told to take any host key (StrictHostKeyChecking=no).",
            "take that out of the inventory and of ~/.ssh/config; then make provision shows the key and asks",
        )
    return way


def look_up(way: Way) -> Known:
    """Find what the files of known hosts hold for a host; a hashed name is found too."""
    for file in way.files:
        if not Path(file).is_file():
            continue
        keys, certified = keys_of(_program(["ssh-keygen", "-F", way.name, "-f", file]).stdout)
        if keys or certified:
            return Known(frozenset(keys), certified, file)
    return Known()


def scan(way: Way, known: Known) -> list[Key]:
    """Ask a host for its keys, without logging in: for the known kinds, else the preferred one, else all.

    Each kind is a connection, and sshd (9.8 and later) shuts out for a while who opens many without logging in.

    Raises:
        KitError: it does not answer, or not as an SSH server.
    """
    kinds = {key.kind for key in known.keys} or {_PREFERRED[0]}
    keys: list[Key] = []
    for asked in (kinds, set(_PREFERRED) - kinds):
        if keys or not asked:
            break
        words = ["ssh-keyscan", "-T", str(SCAN_SECONDS), "-t", ",".join(sorted(asked)), "-p", str(way.port)]
        keys, _ = keys_of(_program([*words, way.address]).stdout)
    if not keys:
        raise KitError(
            "unreachable",
            f"Host {way.place} cannot be reached: {_why(way)}. Nothing was changed.",
            f"ssh -p {way.port} {way.address}    (is the host up, and are address and port in the inventory right?)",
        )
    return keys


def write(way: Way, keys: Iterable[Key]) -> None:
    """Add keys to the user's file of known hosts.

    Raises:
        KitError: there is no such file to write to.
    """
    file = Path(way.files[0]) if way.files else Path(os.devnull)
    if file == Path(os.devnull):
        raise KitError(
            "host_key",
            f"{way.host}: its host key cannot be kept, since UserKnownHostsFile is {file}.",
            "name a file: UserKnownHostsFile in ansible_ssh_common_args or ~/.ssh/config",
        )
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    lines = "".join(f"{way.name} {key.kind} {key.blob}\n" for key in keys)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(lines if not text or text.endswith("\n") else f"\n{lines}")


def _why(way: Way) -> str:
    try:
        with socket.create_connection((way.address, way.port), timeout=SCAN_SECONDS):
            return "something answers there, but it is no SSH server"
    except TimeoutError:
        return f"no answer within {SCAN_SECONDS} s"
    except socket.gaierror:
        return "its name is not known to any name server"
    except OSError as error:
        return (error.strerror or str(error)).lower()


def _program(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - the words are the inventory's own
            words, capture_output=True, text=True, timeout=PROGRAM_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise KitError("ssh", f"There is no `{words[0]}` on this machine.", "apt-get install openssh-client") from None
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(words, 124, "", f"no end within {error.timeout:.0f} s")
