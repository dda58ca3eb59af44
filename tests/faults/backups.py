"""What backups were made to meet: runs the tests of it, and writes the table of docs/FAULTS.md with --write.

`python -m faults.backups [--write]`
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from support.kit import ROOT

from faults import written_between

BEGIN, END = "<!-- backup faults: make test-backup-faults -->\n", "<!-- end of the backup faults -->\n"
FILES = (
    *("backup", "backup_faults", "backup_keeping", "backup_parallel", "backup_offsite", "backup_stream"),
    *("restore", "restore_lost", "restore_others", "backup_external", "external_faults", "external_tls", "disaster"),
)


@dataclass(frozen=True)
class Case:
    """A test that ran: what it shows, whether it held, and its seconds."""

    name: str
    ok: bool
    seconds: float


def cases(junit: str) -> list[Case]:
    """Read pytest's own report, in the order of the files and, within each, in that in which they ran."""
    found = []
    # pytest wrote it just now.
    ran = sorted(ET.fromstring(junit).iter("testcase"), key=lambda one: FILES.index(_file(one)))  # noqa: S314
    for one in ran:
        bad = any(one.find(kind) is not None for kind in ("failure", "error", "skipped"))
        name, bracket, more = one.attrib["name"].partition("[")
        text = name.removeprefix("test_").replace("_", " ") + (f" ({more[:-1]})" if bracket else "")
        found.append(Case(text, not bad, float(one.attrib["time"])))
    return found


def _file(case: ET.Element) -> str:
    """Which of :data:`FILES` a test stands in."""
    return case.attrib["classname"].rpartition(".")[2].removeprefix("test_")


def table(found: Iterable[Case]) -> str:
    """Write them for docs/FAULTS.md."""
    lines = ["| case | outcome | seconds |", "|---|---|---|"]
    lines += [f"| {one.name} | {'held' if one.ok else 'DID NOT HOLD'} | {one.seconds:.0f} |" for one in found]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run them; 0 where all held."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true", help="write the table into docs/FAULTS.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        files = [f"tests/integration/test_{name}.py" for name in FILES]
        # They wait for containers most of the time.
        words = [sys.executable, "-m", "pytest", "-n", "3", "--dist", "loadfile", "-q", f"--junitxml={report}", *files]
        done = subprocess.run(words, cwd=ROOT, check=False)
        found = cases(report.read_text(encoding="utf-8"))
    if given.write:
        written_between(BEGIN, END, table(found))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
