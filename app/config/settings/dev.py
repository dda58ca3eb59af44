"""A shared development server: built like prod, without nginx and Redis in front and behind."""

from pathlib import Path

from config import env
from config.logs import logging_config
from config.settings.base import *  # noqa: F403
from config.settings.base import LOG_LEVEL, MIDDLEWARE, PUBLIC_URL, STORAGES
from config.settings.smtp import *  # noqa: F403

PUBLIC_URL = PUBLIC_URL or "http://localhost:8000"

STATIC_ROOT = Path(env.text("STATIC_ROOT"))
MEDIA_ROOT = Path(env.text("MEDIA_ROOT"))
STORAGES = STORAGES | {"staticfiles": {"BACKEND": "config.storage.StaticStorage"}}

# Nothing stands before gunicorn here, so the process serves its static files itself. Right after SecurityMiddleware,
# as WhiteNoise asks for.
_security = MIDDLEWARE.index("django.middleware.security.SecurityMiddleware") + 1
MIDDLEWARE = [*MIDDLEWARE[:_security], "whitenoise.middleware.WhiteNoiseMiddleware", *MIDDLEWARE[_security:]]

TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}

LOGGING = logging_config(level=LOG_LEVEL, directory=Path(env.text("LOG_DIR")), structured=False)
