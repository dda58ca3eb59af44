"""The environment variables of the project: which value each takes, and which lack one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kit_control.settings import IMAGE_STATIC, LOG_DIR, MEDIA_ROOT, MISSING, STATIC_ROOT, Settings


@dataclass
class Values:
    given: dict[str, str]
    missing: list[str]
    database_password: str
    redis_password: str


def needed_secrets(data: Mapping[str, Any], settings: Settings) -> dict[str, int]:
    """Name the secrets that can be made at random, with their length in characters.

    Args:
        data: the manifest's content.
        settings: inputs of role release_bundle.

    Returns:
        Length by name: the manifest's `generate` ones, the database's password and Redis's own.
    """
    lengths = {
        name: int(variable["generate"]) for name, variable in data["variables"].items() if "generate" in variable
    }
    password = database_password_name(data)
    # An external server has its password already: a made one would pass for it until the login fails.
    if settings["database"] == "external":
        lengths.pop(password, None)
    else:
        lengths.setdefault(password, 32)
    if data["services"]["cache"] and settings["cache"] == "redis":
        lengths["REDIS_PASSWORD"] = 32
    return lengths


def database_password_name(data: Mapping[str, Any]) -> str:
    """Name the secret that holds the database's password."""
    given = (name for name, variable in data["variables"].items() if variable.get("from") == "database.password")
    return next(given, "DATABASE_PASSWORD")


def is_required(variable: Mapping[str, Any], settings: Settings) -> bool:
    """Tell whether an environment must give a variable a value: everywhere, nowhere, or where the manifest says."""
    wanted = variable["required"]
    return wanted if isinstance(wanted, bool) else settings["django_env"] in wanted


def resolve(data: Mapping[str, Any], settings: Settings) -> Values:
    """Give each variable its value: inventory, then the kit's fact, then the manifest's default."""
    plain: Mapping[str, Any] = settings["variables"]
    secret: Mapping[str, Any] = settings["secret_values"]
    missing: list[str] = []

    def lacking(name: str) -> str:
        missing.append(name)
        return f"{MISSING}{name}"

    password_name = database_password_name(data)
    database_password = str(secret[password_name]) if password_name in secret else lacking(password_name)
    redis_password = ""
    wants_cache = data["services"]["cache"] and settings["cache"] != "memory"
    if wants_cache:
        redis_password = str(secret["REDIS_PASSWORD"]) if "REDIS_PASSWORD" in secret else lacking("REDIS_PASSWORD")
    domains = list(settings["domains"]) or list(data["domains"]) or [lacking("app_domains")]
    facts: dict[str, Any] = {
        "environment": settings["django_env"],
        "debug": settings["debug"],
        # Django writes *.example.com without the star.
        "allowed_hosts": [domain.removeprefix("*") for domain in domains],
        "csrf_trusted_origins": [_origin(settings, domain) for domain in domains],
        "database.host": "db" if settings["database"] == "container" else settings["database_host"],
        "database.port": 5432 if settings["database"] == "container" else settings["database_container_port"],
        "database.name": settings["database_name"],
        "database.user": settings["database_user"],
        "database.password": database_password,
        "static_root": _static_root(data, settings) if settings["app_files"] else None,
        "media_root": MEDIA_ROOT if settings["app_files"] else None,
        "log_dir": LOG_DIR if settings["app_files"] else None,
        "cache.url": _cache_url(settings, redis_password) if wants_cache else None,
        # Known once a release has an id; the engine gives it to the containers then.
        "release": None,
    }
    given: dict[str, str] = {}
    for name, variable in data["variables"].items():
        if name in plain:
            value: Any = plain[name]
        elif name in secret:
            value = secret[name]
        elif "from" in variable:
            fact = facts[variable["from"]]
            value = variable.get("default") if fact is None else fact
        else:
            value = variable.get("default")
        if value is None or (value in ("", []) and is_required(variable, settings)):
            if is_required(variable, settings):
                given[name] = lacking(name)
            continue
        given[name] = as_text(value)
    return Values(given, list(dict.fromkeys(missing)), database_password, redis_password)


def _origin(settings: Settings, domain: str) -> str:
    """Write a domain as browsers send it in the Origin header: without the scheme's own port."""
    if settings.has_edge:
        return f"https://{domain}" + ("" if settings["https_port"] == 443 else f":{settings['https_port']}")
    return f"http://{domain}" + ("" if settings["web_port"] == 80 else f":{settings['web_port']}")


def as_text(value: Any) -> str:
    """Write a value the way environment variables hold it: lists by comma, booleans as true and false."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    return str(value)


def _static_root(data: Mapping[str, Any], settings: Settings) -> str:
    """Where the app finds the manifest of its static files: in its image, so that no process reads another release's.

    That asks for an image that has them, and for nginx to serve the files: an app that does it itself (WhiteNoise)
    needs those of earlier releases too.
    """
    has_own = settings["source"] == "image" and data["build"]["commands"]
    return IMAGE_STATIC if has_own and settings.has_edge else STATIC_ROOT


def _cache_url(settings: Settings, password: str) -> str:
    host = "redis" if settings["cache"] == "redis" else settings["cache_host"]
    port = 6379 if settings["cache"] == "redis" else settings["cache_port"]
    return f"redis://:{password}@{host}:{port}/0"
