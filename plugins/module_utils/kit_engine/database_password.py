"""Bring the database role's password in line with the secret: PostgreSQL itself reads it only when it makes its volume.

The role's own verifier in the database is compared with the secret, so there is nothing to note and nothing to forget:
a rotated secret, one that a crash left half-way and a restored volume with an older password are all the same case.
The password itself goes nowhere; what PostgreSQL is told is a verifier, through the container's local socket.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import stringprep
import unicodedata
from pathlib import Path
from typing import Optional

from kit_engine import command
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.stack import Database

# The secret that compose/services/db.yml.j2 names in POSTGRES_PASSWORD_FILE.
FILE = Path("shared/secrets/database_password")
# PostgreSQL's own numbers (scram-common.h), so that a verifier made here looks like one of its own.
ITERATIONS, SALT_BYTES = 4096, 16
_VERIFIER = re.compile(r"SCRAM-SHA-256\$(\d+):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")
_QUESTION = "SELECT rolpassword FROM pg_authid WHERE rolname = current_user;\n"
# What a password may not hold by RFC 4013; PostgreSQL then takes it byte for byte.
_PROHIBITED = (
    stringprep.in_table_c12, stringprep.in_table_c21_c22, stringprep.in_table_c3, stringprep.in_table_c4,
    stringprep.in_table_c5, stringprep.in_table_c6, stringprep.in_table_c7, stringprep.in_table_c8,
    stringprep.in_table_c9, stringprep.in_table_a1,
)  # fmt: skip


def ensure(docker: Docker) -> bool:
    """Give the database role the password that the app is given, where it has another one.

    Args:
        docker: the stack's containers; its database is healthy, its secrets are in place.

    Returns:
        Whether the role's password was changed; never for an external database, which belongs to somebody else.

    Raises:
        EngineError: the database refuses.
    """
    database, secret = docker.stack.database, docker.stack.root / FILE
    if database is None or not secret.is_file():
        return False
    # As the image's entrypoint takes it: without the line end that an editor adds.
    password = secret.read_text(encoding="utf-8").rstrip("\n")
    if opens(password, _say(docker, database, _QUESTION).strip()):
        return False
    role = database.user.replace('"', '""')
    # Neither statement may stand in the server's log, whatever the log is set to.
    quiet = (
        "SET log_statement = 'none';\nSET log_min_duration_statement = -1;\nSET log_min_error_statement = 'panic';\n"
    )
    _say(docker, database, f"{quiet}ALTER ROLE \"{role}\" WITH PASSWORD '{verifier(password)}';\n")
    return True


def verifier(password: str, salt: Optional[bytes] = None, iterations: int = ITERATIONS) -> str:
    """Compute what PostgreSQL keeps of a password (RFC 5803), from which it cannot be had back.

    Args:
        password: the password.
        salt: default is a random one.
        iterations: of PBKDF2.

    Returns:
        ``SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>``.
    """
    salt = os.urandom(SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", prepared(password), salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    parts = (base64.b64encode(part).decode() for part in (salt, stored_key, server_key))
    return "SCRAM-SHA-256${}:{}${}:{}".format(iterations, *parts)


def opens(password: str, kept: str) -> bool:
    """Tell whether a password is the one that PostgreSQL keeps a verifier of.

    Args:
        password: the password.
        kept: what the database holds; an MD5 hash of old, or nothing, is opened by none.
    """
    found = _VERIFIER.fullmatch(kept)
    if not found:
        return False
    mine = verifier(password, base64.b64decode(found[2]), int(found[1]))
    return hmac.compare_digest(mine.encode(), kept.encode())


def prepared(password: str) -> bytes:
    """Write a password as PostgreSQL's clients do before they hash it (SASLprep, RFC 4013)."""
    if password.isascii():
        return password.encode()
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in password
        if not stringprep.in_table_b1(character)
    )
    text = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    from_right = [stringprep.in_table_d1(character) for character in text]
    # Text from right to left stands alone, and at both ends.
    mixed = any(from_right) and (any(map(stringprep.in_table_d2, text)) or not from_right[0] or not from_right[-1])
    if not text or mixed or any(test(character) for test in _PROHIBITED for character in text):
        return password.encode()
    return text.encode()


def _say(docker: Docker, database: Database, statements: str) -> str:
    """Have psql run statements from its standard input, over the local socket."""
    done = docker.execute(
        docker.running(database.service),
        [
            *("psql", "--no-psqlrc", "--no-password", "--quiet", "--tuples-only", "--no-align"),
            *("--set=ON_ERROR_STOP=1", "--set=VERBOSITY=terse"),
            f"--username={database.user}",
            f"--dbname={database.name}",
        ],
        stdin=statements,
        limit=command.QUICK_SECONDS,
    )
    if done.code:
        raise EngineError(
            "database_password",
            f"The password of role {database.user} could not be compared with the secret and set in the database "
            f"(service {database.service}):\n{command.tail(done.err, 3)}",
            docker.stack.make("logs", f"ARGS={database.service}"),
        )
    return done.out
