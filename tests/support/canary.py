"""Look for secrets where others could read them: in process lists over time, files, logs and what Docker tells."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from testbed.hosts import Host

# Reads names and values from its first line, then looks at every process until its input ends.
_WATCH = """
import json, os, pathlib, select, sys
wanted = {name: value.encode() for name, value in json.loads(sys.stdin.readline()).items()}
found, looks = {}, 0
print("watching", flush=True)
while not select.select([sys.stdin], [], [], 0.05)[0]:
    looks += 1
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = pathlib.Path("/proc", pid, "cmdline").read_bytes()
        except OSError:
            # It has ended since.
            continue
        found.update({name: line[:80].decode("utf-8", "replace") for name, value in wanted.items() if value in line})
print(json.dumps({"looks": looks, "found": found}))
"""
# Every file that more than its owner reads, every log, and what Docker tells of containers and images.
_PLACES = """
import json, os, pathlib, subprocess, sys
wanted = {name: value.encode() for name, value in json.load(sys.stdin).items()}
found, files = [], 0
def look(place, content):
    found.extend(f"{name} in {place}" for name, value in wanted.items() if value in content)
for root in ("/srv", "/tmp", "/var/tmp", "/home", "/root", "/etc", "/run", "/var/log", "/var/lib/docker/containers"):
    for folder, folders, names in os.walk(root):
        folders[:] = [one for one in folders if not os.path.ismount(os.path.join(folder, one))]
        for name in names:
            path = os.path.join(folder, name)
            try:
                status = os.lstat(path)
                # Readable by others all the way down? A 0700 folder above keeps them out.
                open_file = status.st_mode & 0o077 and all(
                    os.stat(parent).st_mode & 0o011 for parent in pathlib.Path(path).parents
                )
                if status.st_mode & 0o170000 == 0o100000 and (open_file or "log" in path) and status.st_size < 1 << 26:
                    files += 1
                    look(path, open(path, "rb").read())
            except OSError:
                continue
def said(*words):
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
for kind in ("container", "image"):
    ids = said("docker", kind, "ls", "--all", "--quiet").split()
    look(f"docker {kind} inspect", said("docker", kind, "inspect", *[one.decode() for one in ids]) if ids else b"")
for one in said("docker", "container", "ls", "--all", "--quiet").split():
    look(f"docker logs {one.decode()}", said("docker", "logs", one.decode()))
look("journal", said("journalctl", "--no-pager", "--boot"))
print(json.dumps({"files": files, "found": found}))
"""

# What is shorter stands somewhere by chance.
SHORTEST = 8


class Watch:
    """Watch a host's process list while something is done.

    Args:
        host: the host.
        values: secrets by name.
    """

    def __init__(self, host: Host, values: Mapping[str, str]) -> None:
        self.host, self.values = host, values
        self.told: dict[str, Any] = {}

    def __enter__(self) -> Watch:
        words = [*self.host.ssh_words, f"sudo python3 -c '{_WATCH}'"]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(dict(self.values)) + "\n")
        self._process.stdin.flush()
        # Until it looks, whatever is done would go unseen.
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "watching\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        out, _ = self._process.communicate(timeout=30)
        if kind is None:
            self.told = json.loads(out)


def said(text: str, values: Mapping[str, str]) -> list[str]:
    """Search what was printed, in the forms in which programs print a value.

    Args:
        text: everything that was said.
        values: secrets by name.

    Returns:
        Names of those that stand there: as they are, escaped once or twice, quoted, in Base64, or folded over lines.
    """
    short = [name for name, value in values.items() if len(value) < SHORTEST]
    assert short == [], f"too short to look for: {', '.join(short)}"
    # Ansible folds and indents, and quoting doubles backslashes and quotes: what is left is the same in every form.
    plain = _bare(text)
    return [
        name
        for name, value in values.items()
        if _bare(value) in plain or any(part in text for part in _in_base64(value))
    ]


def _bare(text: str) -> str:
    return re.sub(r"[\s\\\\\"']", "", text)


def _in_base64(value: str) -> list[str]:
    """The parts of Base64 that a value alone decides, wherever in what was encoded it stands."""
    parts = []
    for before in range(3):
        encoded = base64.b64encode(b"x" * before + value.encode()).decode().rstrip("=")
        # Characters at both ends also hold bits of what stands beside.
        parts.append(encoded[(before * 8 + 5) // 6 : len(encoded) - 1])
    return parts


def public_places(host: Host, values: Mapping[str, str]) -> tuple[int, list[str]]:
    """Search a host.

    Args:
        host: the host.
        values: secrets by name.

    Returns:
        How many files were read, and where a secret stands that others can read.
    """
    done = host.run(f"sudo python3 -c '{_PLACES}'", stdin=json.dumps(dict(values)).encode(), timeout=120)
    told = json.loads(done.stdout)
    return int(told["files"]), list(told["found"])
