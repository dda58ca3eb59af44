"""The questions behind readiness. Each returns None when all is well, else what is wrong."""

from collections.abc import Callable
from functools import lru_cache

from django.core.cache import caches
from django.db import Error, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from redis.exceptions import RedisError


def database_problem() -> str | None:
    """Ask the database for one row."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
    except Error as error:
        return str(error).strip()
    return None


def cache_problem() -> str | None:
    """Ask the cache for a sign of life, where it is a server of its own (local memory cannot be away)."""
    ping = getattr(caches["default"], "ping", None)
    if ping is None:
        return None
    try:
        ping()
    except (RedisError, OSError) as error:
        return str(error)
    return None


@lru_cache(maxsize=1)
def _migrations_on_disk() -> frozenset[tuple[str, str]]:
    # The code of a running process does not change, so its files are read once.
    loader = MigrationLoader(None)
    return frozenset(loader.graph.nodes)


def migration_problem() -> str | None:
    """Compare the migrations this code ships with those the database has seen.

    More in the database than in the code is no problem: that is an older release during a deploy.
    """
    try:
        applied = set(MigrationRecorder(connection).applied_migrations())
    except Error as error:
        return str(error).strip()
    missing = sorted(_migrations_on_disk() - applied)
    if missing:
        return "not applied: " + ", ".join(f"{app}.{name}" for app, name in missing)
    return None


CHECKS: dict[str, Callable[[], str | None]] = {
    "database": database_problem,
    "cache": cache_problem,
    "migrations": migration_problem,
}


def problems() -> dict[str, str]:
    """Run the checks in order; return the failed ones with their reasons.

    Migrations are not asked of a database that is away: it would only take the connect timeout a second time.
    """
    failed: dict[str, str] = {}
    for name, check in CHECKS.items():
        if name == "migrations" and "database" in failed:
            failed[name] = "unknown while the database is away"
        elif (problem := check()) is not None:
            failed[name] = problem
    return failed
