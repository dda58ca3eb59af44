"""By how many processes a database is dumped and loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from kit_engine import docker_socket, dump_feed
from kit_engine.stack import Backups

# Below, what several processes save is about what the container that they run in takes to start: half a second.
SMALL_BYTES = 256 * 2**20
# Few databases have more tables of size, and each process is a connection that the app might want.
MOST = 4
# The site serves meanwhile, and keeps the other half. Of a dump nearly all the work is the client's: it compresses.
_HALF = 2


def chosen(wanted: int, size: int, cpus: int) -> int:
    """Decide.

    Args:
        wanted: backup_jobs: so many; 0: as many as pay.
        size: bytes of the database.
        cpus: processors of the machine that the server is on.

    Returns:
        How many, at least 1.
    """
    if wanted:
        return wanted
    return 1 if size < SMALL_BYTES else max(1, min(MOST, cpus // _HALF))


def to_load(backup: Backups, size: int, told: Mapping[str, Any], cpus: float = 0) -> int:
    """Decide by how many a backup is loaded.

    Args:
        backup: how backups are made.
        size: bytes of the database.
        told: the backup's manifest; what lies off-site only comes through a pipe, which only one can read.
        cpus: processors that the server may use, where it has fewer than its machine: it builds the indexes.
    """
    has = engine_cpus()
    return 1 if told.get(dump_feed.SNAPSHOT) else chosen(backup.jobs, size, int(min(has, cpus or has)))


def engine_cpus() -> int:
    """Count the processors of Docker's engine, which may be a virtual machine: it refuses to give more than it has."""
    told = docker_socket.get("/info") or {}
    return int(told.get("NCPU") or os.cpu_count() or 1)
