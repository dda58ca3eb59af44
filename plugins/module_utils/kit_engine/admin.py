"""The first superuser: created once, with a password that is shown once."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from kit_engine import command, database
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.stack import Admin

RECORD = "records/first-admin.json"
# 24 characters of URL-safe base64 hold 144 bits.
PASSWORD_BYTES = 18
MARK = "kit-first-admin:"
# Runs inside `manage.py shell`: prints whether it created the user; reads the password from standard input.
SCRIPT = f"""
import json, sys
from django.contrib.auth import get_user_model
model = get_user_model()
given = json.loads(sys.stdin.readline())
answer = "present"
if not model._default_manager.filter(is_superuser=True).exists():
    fields = {{model.EMAIL_FIELD: given["email"]}} if hasattr(model, "EMAIL_FIELD") else {{}}
    fields.setdefault(model.USERNAME_FIELD, given["username"])
    model._default_manager.create_superuser(password=given["password"], **fields)
    answer = "created"
print("{MARK}" + answer)
"""


def ensure(docker: Docker, migrated: bool) -> dict[str, str] | None:
    """Create the first superuser if there is none.

    Asking costs a start of Django, so the answer is kept for as long as the database is the same and no
    migration changed its tables.

    Args:
        docker: the stack's containers; web runs.
        migrated: whether migrations were applied just now.

    Returns:
        User name and password if the user was created; the password stands nowhere else.

    Raises:
        EngineError: the project's user model could not be used.
    """
    stack = docker.stack
    wanted = stack.first_admin
    if wanted is None:
        return None
    identity = database.identity(docker)
    record = stack.root / RECORD
    if identity and not migrated and _recorded(record) == identity:
        return None
    created = _create(docker, wanted)
    record.write_text(json.dumps({"database": identity}) + "\n", encoding="utf-8")
    return created


def _recorded(record: Path) -> str:
    try:
        return str(json.loads(record.read_text(encoding="utf-8"))["database"])
    except (OSError, ValueError, KeyError):
        return ""


def _create(docker: Docker, wanted: Admin) -> dict[str, str] | None:
    stack = docker.stack
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    given = {"username": wanted.username, "email": wanted.email, "password": password}
    done = docker.execute(
        docker.running(stack.web), [*stack.manage, "shell", "--command", SCRIPT], stdin=json.dumps(given) + "\n"
    )
    answers = [line for line in done.out.splitlines() if line.startswith(MARK)]
    if done.code or not answers:
        raise EngineError(
            "first_admin",
            f"The first admin {wanted.username} could not be created:\n{command.tail(done.err or done.out)}",
            f"{stack.make('manage')} ARGS=createsuperuser",
        )
    if answers[-1] != f"{MARK}created":
        return None
    return {"username": wanted.username, "password": password}
