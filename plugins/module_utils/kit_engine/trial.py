"""What smoke checks need inside the app for a moment: an account to sign in with and, where they may write, an upload.

The account has no permission unless writing is allowed and the manifest's requests ask for some. Whatever is left of an
earlier run that was cut off goes with the next.
"""

from __future__ import annotations

import argparse
import json
import secrets
from typing import Any

from kit_engine import command
from kit_engine import stack as stacks
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report

PREFIX = "kit-smoke-"
MARK = "kit-trial:"
# 24 characters of URL-safe base64 hold 144 bits.
PASSWORD_BYTES = 18

# Both run inside `manage.py shell` and read one line of JSON from standard input.
_COMMON = """
import json, sys
from importlib import import_module
from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
model = get_user_model()
given = json.loads(sys.stdin.readline())

def forget(name):
    for user in model._default_manager.filter(**{model.USERNAME_FIELD + "__startswith": name}):
        if apps.is_installed("django.contrib.sessions"):
            engine = import_module(settings.SESSION_ENGINE)
            from django.contrib.sessions.models import Session
            from django.utils import timezone
            from datetime import timedelta
            # Only those of the last hour: an old site may hold millions.
            since = timezone.now() + timedelta(seconds=settings.SESSION_COOKIE_AGE - 3600)
            for session in Session.objects.filter(expire_date__gte=since):
                if session.get_decoded().get("_auth_user_id") == str(user.pk):
                    engine.SessionStore(session.session_key).delete()
        # Tokens and the like that signing in has left; nothing else can point to an account of a minute.
        for relation in user._meta.related_objects:
            if not relation.many_to_many:
                relation.related_model._base_manager.filter(**{relation.field.name: user}).delete()
        user.delete()
"""
_BEGIN = (
    _COMMON
    + f"""
forget("{PREFIX}")
answer = {{}}
if given["account"]:
    fields = {{name: name + "@smoke.invalid" for name in model.REQUIRED_FIELDS}}
    if getattr(model, "EMAIL_FIELD", None):
        fields[model.EMAIL_FIELD] = given["username"] + "@smoke.invalid"
    fields[model.USERNAME_FIELD] = given["username"]
    user = model._default_manager.create_user(password=given["password"], **fields)
    if given["staff"]:
        user.is_staff = True
        user.save(update_fields=["is_staff"])
    if given["permissions"]:
        from django.contrib.auth.models import Permission
        for name in given["permissions"]:
            label, _, codename = name.partition(".")
            user.user_permissions.add(Permission.objects.get(content_type__app_label=label, codename=codename))
if given["upload"]:
    from django.core.files.base import ContentFile
    from django.core.files.storage import default_storage
    answer["file"] = default_storage.save(given["username"] + ".txt", ContentFile(given["upload"].encode()))
    answer["url"] = default_storage.url(answer["file"])
print("{MARK}" + json.dumps(answer))
"""
)
_END = (
    _COMMON
    + f"""
forget(given["username"])
if given["file"]:
    from django.core.files.storage import default_storage
    default_storage.delete(given["file"])
print("{MARK}{{}}")
"""
)


def trial_verb(arguments: argparse.Namespace) -> None:
    """Begin or end a trial.

    The request to begin: ``account``, ``staff``, ``upload`` (whether), ``permissions`` (names); the answer holds user
    name and password, and the upload's file, address and text. To end: ``end``, the answer's ``username`` and ``file``.
    """
    report: Report = arguments.report
    asked = json.loads(arguments.request)
    found = Docker(stacks.load(arguments.root))
    if "end" in asked:
        _run(found, _END, {"username": asked["username"], "file": asked["file"]})
        report.done({"changed": True}, "")
        return
    username = f"{PREFIX}{secrets.token_hex(6)}"
    given = {
        "username": username,
        "password": secrets.token_urlsafe(PASSWORD_BYTES),
        "account": bool(asked["account"]),
        "staff": bool(asked["staff"]),
        "permissions": list(asked["permissions"]),
        "upload": secrets.token_hex(16) if asked["upload"] else "",
    }
    told = _run(found, _BEGIN, given)
    report.done({"changed": True, **{name: given[name] for name in ("username", "password", "upload")}, **told}, "")


def _run(found: Docker, script: str, given: dict[str, Any]) -> dict[str, Any]:
    stack = found.stack
    words = [*stack.manage, "shell", "--command", script]
    done = found.execute(found.running(stack.web), words, stdin=json.dumps(given) + "\n")
    answers = [line for line in done.out.splitlines() if line.startswith(MARK)]
    if done.code or not answers:
        raise EngineError(
            "trial",
            f"The account for smoke checks could not be made or removed:\n{command.tail(done.err or done.out)}",
            stack.make("logs", f"ARGS={stack.web}"),
        )
    told: dict[str, Any] = json.loads(answers[-1][len(MARK) :])
    return told
