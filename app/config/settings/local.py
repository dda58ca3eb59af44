"""A developer's machine: everything is seen at once, nothing leaves the machine."""

from pathlib import Path

from config import env
from config.logs import logging_config
from config.settings.base import *  # noqa: F403
from config.settings.base import BASE_DIR, LOG_LEVEL, PUBLIC_URL

PUBLIC_URL = PUBLIC_URL or "http://localhost:8000"

EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"

STATIC_ROOT = Path(env.text("STATIC_ROOT", str(BASE_DIR / "staticfiles")))
MEDIA_ROOT = Path(env.text("MEDIA_ROOT", str(BASE_DIR / "media")))

CAMPAIGN_SEND_IN_ONE_TASK = True

LOGGING = logging_config(level=LOG_LEVEL, directory=None, structured=False)
