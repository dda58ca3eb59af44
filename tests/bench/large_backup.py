"""One backup and restore of a database as large as one asks for, beside a bare pg_dump and pg_restore.

`python -m bench.large_backup 10 --jobs 2`: GiB of database, and backup_jobs. Prints seconds and MiB a second of each,
and what the same rates make of 200 GiB; writes build/bench/large_backup.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

from support import host_releases
from support.backups import backed_up, limits, manifest_of, sql
from support.host_releases import HostReleases

from bench.backups import MIB, RESULTS, Measured, bare_dump, bare_restore, engine, restored
from bench.figures import UnfitError

GIB = 1024 * MIB
STATED_GIB, TABLES, ROWS = 200, 4, 1_000_000
# The database, its copy that a restore loads, the server of a restore test, dumps, and the log.
TIMES_ROOM, SPARE_GIB, LIMIT_SECONDS = 4, 15, 7200
_FILL = """
CREATE TABLE IF NOT EXISTS kit_large_%d (id bigserial PRIMARY KEY, text text);
INSERT INTO kit_large_%d (text)
  SELECT md5(i::text) || md5((i * 7)::text) || ' row ' || i FROM generate_series(1, %d) i
"""
_SIZE = "SELECT pg_database_size(current_database())"


def measure(host: HostReleases, gib: float, scratch: Path) -> Measured:
    """Fill the database, and go through all of it once."""
    number = 0
    while int(sql(host, _SIZE)) < gib * GIB:
        table = number % TABLES
        sql(host, _FILL % (table, table, ROWS))
        number += 1
    sql(host, "VACUUM ANALYZE")
    done, bare = Measured(), scratch / "bare.dump"
    compression = str(manifest_of(host, backed_up(host, "--level", "checksum"))["compression"])
    done.take("bare pg_dump", partial(bare_dump, host, bare, compression))
    done.take("backup, checksum", partial(backed_up, host, "--level", "checksum"))
    given = str(engine(host, "backups")["backups"][0]["id"])
    done.take("bare pg_restore", partial(bare_restore, host, bare))
    bare.unlink()
    done.take("verified by read", partial(engine, host, "verify-backup", given, "--level", "read"))
    done.take("verified by restore", partial(engine, host, "verify-backup", given, "--level", "restore"))
    done.take("restore, whole", partial(restored, host, given, done))
    manifest = manifest_of(host, given)
    done.sizes = {"database": manifest["database_bytes"], "dump": manifest["bytes"]}
    return done


def main() -> int:
    """Measure all; 0, or 1 where nothing could be measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("gib", type=float, help="GiB of database")
    parser.add_argument("--jobs", type=int, default=0, help="processes; 0: as many as the kit takes by itself")
    asked = parser.parse_args()
    gib = float(asked.gib)
    RESULTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        free = shutil.disk_usage(scratch).free / GIB
        if free < gib * TIMES_ROOM + SPARE_GIB:
            wanted = gib * TIMES_ROOM + SPARE_GIB
            print(f"large_backup: {free:.0f} GiB are free, {wanted:.0f} are needed for {gib:g}", file=sys.stderr)
            return 1
        host = host_releases.make(Path(scratch))
        host.limit = LIMIT_SECONDS
        try:
            told = host.deploy(host.version("one"))
            if told.code:
                raise UnfitError(told.err)
            with limits(host, jobs=asked.jobs):
                done = measure(host, gib, Path(scratch))
        except (UnfitError, AssertionError) as error:
            print(f"large_backup: {error}", file=sys.stderr)
            return 1
        finally:
            host.remove()
    told_all = {"schema": 1, "bytes": done.sizes, "seconds": done.seconds}
    (RESULTS / "large_backup.json").write_text(json.dumps(told_all, indent=2) + "\n", encoding="utf-8")
    print(", ".join(f"{name} {size / MIB:.0f} MiB" for name, size in done.sizes.items()))
    for name in done.seconds:
        took = done.middle(name)
        stated = took * STATED_GIB * GIB / done.sizes["database"] / 3600
        rate = done.sizes["database"] / MIB / took
        print(f"{name:<24}{took:8.1f} s{rate:7.0f} MiB of database a second; {STATED_GIB} GiB in {stated:.1f} h")
    return 0


if __name__ == "__main__":
    sys.exit(main())
