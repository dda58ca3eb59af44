"""What a deploy's backup needs, started while the control node still makes the image.

It changes nothing that anybody relies on, and goes with the session that asked for it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kit_engine import backup, releases, throw_away, verification
from kit_engine import stack as stacks
from kit_engine.docker import Docker
from kit_engine.report import Report

# Of what a database may have in memory, since it grew.
_HALF = 2


def ahead_verb(arguments: argparse.Namespace) -> None:
    """Start the server that the next backup will be restored into, where that will be done to a small database."""
    root: Path = arguments.root.resolve()
    report: Report = arguments.report
    begun = False
    if releases.current(root):
        stack = stacks.load(root)
        wanted, last = stack.backed_up, backup.newest(root)
        tested = stack.backup.level == verification.RESTORE and wanted is not None and wanted.volume
        if wanted and tested and last and last["database_bytes"] * _HALF <= throw_away.SMALL_BYTES:
            docker = Docker(stack)
            throw_away.begin_ahead(docker, docker.running(wanted.service), wanted)
            begun = True
    report.done({"changed": False, "begun": begun}, "")


def leave(root: Path) -> None:
    """Remove what no backup has used.

    Args:
        root: the deploy root.
    """
    if releases.current(root):
        throw_away.remove_ahead(stacks.load(root).project)
