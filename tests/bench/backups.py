"""Backups and restores of a million rows and two thousand media files, in turn with bare pg_dump and pg_restore.

`python -m bench.backups`: measures on this machine's engine, prints a table, writes build/bench/backups.json; the exit
status is not 0 where a promise is not kept.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from kit_engine import backup
from support import host_releases
from support.backups import backed_up, databases, folder_of, manifest_of, media, sql
from support.engine_stack import docker
from support.host_releases import HostReleases
from support.prod_stack import lay_out
from support.traffic import Summary, Traffic, summary

from bench.figures import Bar, UnfitError

RESULTS = Path(__file__).resolve().parents[2] / "build/bench"
ROWS, FILES, PAIRS = 1_000_000, 2_000, 5
TIMES_DUMP, TIMES_RESTORE, TIMES_MEDIAN = 1.2, 1.3, 2.0
LOAD_SECONDS, RATE = 15.0, 60.0
MIB = 2**20
_FILL = """
INSERT INTO kit_rows (text) SELECT md5(i::text) || md5((i * 7)::text) || ' row ' || i FROM generate_series(1, %d) i
"""
# The same content for everybody who measures.
_MEDIA = """
import hashlib, pathlib, random
many, root = random.Random(16), pathlib.Path("bench")
for number in range(%d):
    path = root / str(number %% 40) / f"{number}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(many.randbytes(many.randrange(1_000, 60_000)))
"""
_LISTING = """
import hashlib, pathlib
for path in sorted(pathlib.Path("bench").rglob("*.bin")):
    print(path, hashlib.sha256(path.read_bytes()).hexdigest())
"""
_TABLES = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"


@dataclass
class Measured:
    """Seconds by what was done, in the order of the rounds; sizes in bytes."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def take(self, name: str, work: Callable[[], object]) -> None:
        """Do something, and note how long it took."""
        begun = time.monotonic()
        work()
        took = time.monotonic() - begun
        self.seconds.setdefault(name, []).append(took)
        print(f"{name}: {took:.1f} s", flush=True)

    def middle(self, name: str) -> float:
        """The median of what was noted."""
        return median(self.seconds[name])

    def times(self, name: str, beside: str) -> float:
        """How many times as long one took as the other, the median of their pairs: a machine is not always as fast."""
        return median(one / other for one, other in zip(self.seconds[name], self.seconds[beside], strict=True))


def measure(host: HostReleases, scratch: Path) -> tuple[Measured, list[Bar]]:
    """Go through all of it."""
    sql(host, "TRUNCATE kit_rows")
    sql(host, _FILL % ROWS)
    sql(host, "VACUUM ANALYZE kit_rows")
    media(host, "python", "-c", _MEDIA % FILES)
    done = Measured()
    given = ""
    bare = scratch / "bare.dump"
    compression = str(manifest_of(host, backed_up(host, "--level", "checksum"))["compression"])
    for _ in range(PAIRS):
        done.take("bare pg_dump", partial(bare_dump, host, bare, compression))
        done.take("backup, checksum", partial(backed_up, host, "--level", "checksum"))
        given = backup.names(host.root)[0]
        done.take("bare pg_restore", partial(bare_restore, host, bare))
        done.take("verified by read", partial(engine, host, "verify-backup", given, "--level", "read"))
        done.take("verified by restore", partial(engine, host, "verify-backup", given, "--level", "restore"))
        done.take("restore, whole", partial(restored, host, given, done))
    manifest = manifest_of(host, given)
    done.sizes = {
        "database": manifest["database_bytes"],
        "dump": manifest["bytes"],
        "media": manifest["media"]["bytes"],
    }
    quiet, busy = _loads(host)
    return done, [
        Bar(
            "backup, in times of bare pg_dump",
            done.times("backup, checksum", "bare pg_dump"),
            TIMES_DUMP,
        ),
        Bar(
            "restore of the database, in times of bare pg_restore",
            done.times("restore, its step", "bare pg_restore"),
            TIMES_RESTORE,
        ),
        Bar(f"failed of {busy.count} requests during backups", len(busy.failed), 0),
        Bar("median latency during backups, in times of the usual", busy.median / quiet.median, TIMES_MEDIAN),
        Bar("differences after all was destroyed and restored", _comes_back(host, given, scratch), 0),
    ]


def engine(host: HostReleases, *words: str) -> dict[str, Any]:
    """Call the engine; gives its answer, or raises UnfitError."""
    told = host.engine(*words, "--json")
    if told.code:
        raise UnfitError(f"{' '.join(words)} ended with {told.code}:\n{told.out}{told.err}")
    return told.json


def restored(host: HostReleases, given: str, done: Measured) -> None:
    """Restore; notes the seconds of the step that loads and counts."""
    seconds = engine(host, "restore", given, "--confirm", "prod")["seconds"]
    done.seconds.setdefault("restore, its step", []).append(float(seconds["restore"]))
    _drop_kept(host)


def _drop_kept(host: HostReleases) -> None:
    """Remove the databases that restores keep: the disk is the machine's."""
    for name in (one for one in databases(host).split() if one.startswith(f"{host.name}_before_")):
        sql(host, f'DROP DATABASE "{name}"')


def bare_dump(host: HostReleases, target: Path, compression: str) -> None:
    """Dump as anybody would, compressed as the kit does."""
    words = ["docker", "exec", host.containers()["db"][0], "pg_dump", "-Fc", f"--compress={compression}"]
    with target.open("wb") as file:
        subprocess.run([*words, "-U", host.name, host.name], stdout=file, check=True)
        # As whoever means to keep it.
        os.fsync(file.fileno())


def bare_restore(host: HostReleases, dump: Path) -> None:
    """Load a dump into a database of its own, and drop that."""
    sql(host, "CREATE DATABASE bare TEMPLATE template0")
    words = [
        "docker",
        "exec",
        "-i",
        host.containers()["db"][0],
        "pg_restore",
        "--exit-on-error",
        "--single-transaction",
    ]
    try:
        with dump.open("rb") as file:
            subprocess.run([*words, "-U", host.name, "-d", "bare"], stdin=file, check=True)
    finally:
        sql(host, "DROP DATABASE bare WITH (FORCE)")


def _loads(host: HostReleases) -> tuple[Summary, Summary]:
    """The same load without and with backups, each for as long."""

    def load() -> Traffic:
        return host.traffic(RATE)

    with load().running() as quiet:
        time.sleep(LOAD_SECONDS)
    with load().running() as busy:
        end = time.monotonic() + LOAD_SECONDS
        while time.monotonic() < end:
            engine(host, "backup")
    return summary(quiet.requests), summary(busy.requests)


def _content(host: HostReleases) -> dict[str, str]:
    """A checksum of every table, and of every media file."""
    tables = sql(host, _TABLES).split()
    # The catalog's own names.
    asked = "SELECT count(*) || md5(string_agg(md5(t::text), '' ORDER BY md5(t::text))) FROM "
    found = {name: sql(host, f"{asked}{name} t") for name in tables}
    return {**found, **dict(line.split() for line in media(host, "python", "-c", _LISTING).splitlines())}


def _comes_back(host: HostReleases, given: str, scratch: Path) -> int:
    """Destroy everything but a copy of the backup, deploy anew, restore; gives how many tables and files differ."""
    engine(host, "restore", given, "--confirm", "prod")
    before = _content(host)
    kept = scratch / given
    shutil.copytree(folder_of(host, given), kept)
    engine(host, "destroy", "--confirm", "prod")
    if docker("volume", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={host.project}"):
        raise UnfitError("volumes outlived destroy")
    shutil.rmtree(host.root)
    host.root.mkdir()
    lay_out(host.root, host.name, host_releases.DOMAIN)
    told = host.deploy(host.made[0])
    if told.code:
        raise UnfitError(told.err)
    target = host.root / backup.FOLDER / given
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copytree(kept, target)
    engine(host, "restore", given, "--confirm", "prod")
    after = _content(host)
    if len(before) < FILES:
        raise UnfitError(f"only {len(before)} tables and files were there")
    return sum(before.get(name) != after.get(name) for name in {*before, *after})


def main() -> int:
    """Measure all.

    Returns:
        0, or 1 where a promise is not kept, or nothing could be measured.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        host = host_releases.make(Path(scratch))
        try:
            told = host.deploy(host.version("one"))
            if told.code:
                raise UnfitError(told.err)
            done, bars = measure(host, Path(scratch))
        except (UnfitError, AssertionError) as error:
            print(f"bench-backup: {error}", file=sys.stderr)
            return 1
        finally:
            host.remove()
    told_all = {
        "schema": 1, "processors": len(os.sched_getaffinity(0)), "rows": ROWS, "files": FILES, "bytes": done.sizes,
        "seconds": done.seconds, "bars": [{**asdict(bar), "kept": bar.kept} for bar in bars],
    }  # fmt: skip
    (RESULTS / "backups.json").write_text(json.dumps(told_all, indent=2) + "\n", encoding="utf-8")
    print(", ".join(f"{name} {size / MIB:.0f} MiB" for name, size in done.sizes.items()))
    for name in done.seconds:
        took = done.middle(name)
        print(f"{name:<24}{took:7.1f} s{done.sizes['database'] / MIB / took:8.0f} MiB of database a second")
    for bar in bars:
        print(f"{'kept  ' if bar.kept else 'MISSED'} {bar.text}: {bar.found:.2f} (bar {bar.limit:g})")
    return 0 if all(bar.kept for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
