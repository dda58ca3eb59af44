"""The mail server, the same variables in dev and prod."""

from email.utils import parseaddr

from django.core.exceptions import ImproperlyConfigured

from config import env

EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
EMAIL_HOST = env.text("EMAIL_HOST")
EMAIL_PORT = env.integer("EMAIL_PORT", 587, minimum=1, maximum=65535)
EMAIL_HOST_USER = env.text("EMAIL_HOST_USER", "")
EMAIL_HOST_PASSWORD = env.text("EMAIL_HOST_PASSWORD", "")
EMAIL_USE_TLS = env.boolean("EMAIL_USE_TLS", True)
EMAIL_USE_SSL = env.boolean("EMAIL_USE_SSL", False)
DEFAULT_FROM_EMAIL = env.text("DEFAULT_FROM_EMAIL")
SERVER_EMAIL = DEFAULT_FROM_EMAIL

if not all(parseaddr(DEFAULT_FROM_EMAIL)[1].partition("@")):
    raise ImproperlyConfigured(
        f"DEFAULT_FROM_EMAIL must be an address, alone or as Name <address>, but is {DEFAULT_FROM_EMAIL!r}."
    )

if EMAIL_USE_TLS and EMAIL_USE_SSL:
    raise ImproperlyConfigured(
        "EMAIL_USE_TLS (STARTTLS, port 587) and EMAIL_USE_SSL (port 465) are both true. Set one to false."
    )
