"""What a database may be called, so that one of its backups can take its place: that ends or cuts no other name."""

from __future__ import annotations

import re

# Of these an administrator's sessions are: who renames one must not be in it.
_MAINTENANCE = ("postgres", "template0", "template1")
# PostgreSQL cuts a name off behind 63 bytes, and the one from before gets `_before_<day>_<time>` behind it.
_LONGEST = 63 - len("_before_YYYYmmdd_HHMMSS")
# They end what a name stands in: SQL and its formats, libpq's settings, lists of psql's, a path.
_ENDING = re.compile(r"""["'\\/%=\s]""")


def problem(name: str) -> str:
    """Say why nothing could be restored into a database of some name; empty where it can.

    Args:
        name: of the database, as PostgreSQL has it.
    """
    if name in _MAINTENANCE:
        return f"{name} is PostgreSQL's own, and cannot be replaced by one that was restored"
    size = len(name.encode())
    if size > _LONGEST:
        return f"its name has {size} bytes, and at most {_LONGEST} leave room for what a restore puts behind it"
    if not name or _ENDING.search(name):
        return "its name is empty or holds a quote, a space, or one of \\ / % =, with which no restore can work"
    return ""
