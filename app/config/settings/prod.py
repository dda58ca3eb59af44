"""Production, behind nginx with TLS. No secret and no host has a fallback; an unsafe value stops the start."""

from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from config import env
from config.logs import logging_config
from config.settings.base import *  # noqa: F403
from config.settings.base import (
    ALLOWED_HOSTS,
    CAMPAIGN_LEASE_SECONDS,
    CSRF_TRUSTED_ORIGINS,
    DEBUG,
    EMAIL_TIMEOUT,
    JWT_SIGNING_KEY,
    LOG_LEVEL,
    PUBLIC_URL,
    REST_FRAMEWORK,
    SECRET_KEY,
    STORAGES,
)
from config.settings.smtp import *  # noqa: F403


def _refuse_unsafe_key(name: str, value: str) -> None:
    """Apply Django's rule W009 (50 characters, 5 distinct, no generated prefix) as an error, not a warning."""
    if value.startswith("django-insecure-"):
        raise ImproperlyConfigured(f"{name} begins with django-insecure-, a key made for development. Make a new one.")
    if len(value) < 50 or len(set(value)) < 5:
        raise ImproperlyConfigured(
            f"{name} must have at least 50 characters, 5 of them distinct; it has {len(value)} and "
            f"{len(set(value))}. Make one with `make secrets`."
        )


_refuse_unsafe_key("SECRET_KEY", SECRET_KEY)
_refuse_unsafe_key("JWT_SIGNING_KEY", JWT_SIGNING_KEY)
if SECRET_KEY == JWT_SIGNING_KEY:
    raise ImproperlyConfigured("SECRET_KEY and JWT_SIGNING_KEY are equal. Give each its own value.")
if DEBUG:
    raise ImproperlyConfigured("DEBUG is true in production: error pages would show settings. Set DEBUG=false.")
if not ALLOWED_HOSTS:
    raise ImproperlyConfigured("ALLOWED_HOSTS is empty: every request would be refused. List the site's names.")

# A shorter lease would hand a mail that a slow server is still taking to a second worker.
_SMTP_STEPS = 8
if CAMPAIGN_LEASE_SECONDS < _SMTP_STEPS * EMAIL_TIMEOUT:
    raise ImproperlyConfigured(
        f"CAMPAIGN_LEASE_SECONDS must be at least {_SMTP_STEPS * EMAIL_TIMEOUT} in production, the time that one mail "
        f"may take with a slow server, but is {CAMPAIGN_LEASE_SECONDS}."
    )

# Without a PUBLIC_URL of its own the site is known by the first origin it trusts.
PUBLIC_URL = PUBLIC_URL or next(iter(CSRF_TRUSTED_ORIGINS), "")
if not PUBLIC_URL.startswith("https://") or "*" in PUBLIC_URL:
    raise ImproperlyConfigured(
        f"Links in mails need an https address, and it is {PUBLIC_URL!r}. Set PUBLIC_URL=https://<domain>, or name "
        "the site's address first in CSRF_TRUSTED_ORIGINS."
    )

# nginx overwrites these headers on every request, so they may be believed.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
REST_FRAMEWORK = REST_FRAMEWORK | {"NUM_PROXIES": 1}

# nginx owns the security headers (it also answers for static files and errors) and hides these; they stay on so that
# a process reached without nginx is no weaker.
SECURE_HSTS_SECONDS = 31536000
SECURE_HSTS_INCLUDE_SUBDOMAINS = env.boolean("SECURE_HSTS_INCLUDE_SUBDOMAINS", False)
SECURE_HSTS_PRELOAD = env.boolean("SECURE_HSTS_PRELOAD", False)
SECURE_SSL_REDIRECT = True
# Probes ask the process directly, over plain HTTP.
SECURE_REDIRECT_EXEMPT = [r"^health/(live|ready)$"]
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
# W005 and W021 ask for HSTS on all subdomains and in browsers' preload list. That binds hosts which this service does
# not know, so it is the owner's decision (the two variables above), not a default.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]

STATIC_ROOT = Path(env.text("STATIC_ROOT"))
MEDIA_ROOT = Path(env.text("MEDIA_ROOT"))
STORAGES = STORAGES | {"staticfiles": {"BACKEND": "config.storage.StaticStorage"}}

CACHES = {
    "default": {
        "BACKEND": "config.cache.TolerantRedisCache",
        "LOCATION": env.text("CACHE_URL"),
    },
}
# An evicted or restarted cache must not log people out: the database holds the session, the cache a copy.
SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"

TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}

LOGGING = logging_config(level=LOG_LEVEL, directory=Path(env.text("LOG_DIR")), structured=True)
