"""What never differs between environments. local, dev and prod hold only their differences."""

from datetime import timedelta
from pathlib import Path

from config import __version__, env

BASE_DIR = Path(__file__).resolve().parents[2]

ENVIRONMENT = env.text("DJANGO_ENV")
VERSION = __version__
RELEASE_ID = env.text("RELEASE_ID", "")

SECRET_KEY = env.text("SECRET_KEY")
SECRET_KEY_FALLBACKS = env.words("SECRET_KEY_FALLBACKS")
JWT_SIGNING_KEY = env.text("JWT_SIGNING_KEY")

DEBUG = env.boolean("DEBUG", False)
ALLOWED_HOSTS = env.words("ALLOWED_HOSTS")
CSRF_TRUSTED_ORIGINS = env.words("CSRF_TRUSTED_ORIGINS")

# Links in mails are built without a request, so the address people use must be known.
PUBLIC_URL = env.text("PUBLIC_URL", "").rstrip("/")

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "config.apps.StaticFiles",
    "rest_framework",
    "rest_framework_simplejwt",
    "rest_framework_simplejwt.token_blacklist",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_tasks",
    "django_tasks_db",
    "accounts",
    "campaigns",
    "health",
]

MIDDLEWARE = [
    "config.request_id.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": env.text("DATABASE_HOST"),
        "PORT": env.integer("DATABASE_PORT", 5432, minimum=1, maximum=65535),
        "NAME": env.text("DATABASE_NAME"),
        "USER": env.text("DATABASE_USER"),
        "PASSWORD": env.text("DATABASE_PASSWORD"),
        "CONN_MAX_AGE": env.integer("DATABASE_CONN_MAX_AGE", 60, minimum=0, maximum=3600),
        # A persistent connection may have died with a restarted database; asked once per request.
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            "connect_timeout": 5,
            "sslmode": env.choice(
                "DATABASE_SSLMODE",
                ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
                "prefer",
            ),
        },
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "accounts.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
MEDIA_URL = "/media/"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
# Pages name the hashed files only; the plain copies would double the folder.
WHITENOISE_KEEP_ONLY_HASHED_FILES = True
# Uploads are served by nginx, which runs as another user.
FILE_UPLOAD_PERMISSIONS = 0o644
FILE_UPLOAD_DIRECTORY_PERMISSIONS = 0o755

TASKS = {"default": {"BACKEND": "django_tasks.backends.immediate.ImmediateBackend"}}

EMAIL_TIMEOUT = 15  # seconds for one step of the SMTP dialogue; campaigns/services/sending.py counts on it
DEFAULT_FROM_EMAIL = env.text("DEFAULT_FROM_EMAIL", "Email Campaign <noreply@localhost>")
SERVER_EMAIL = DEFAULT_FROM_EMAIL

# How sending behaves; see campaigns/services/sending.py for what each one means.
CAMPAIGN_BATCH_SIZE = env.integer("CAMPAIGN_BATCH_SIZE", 50, minimum=1, maximum=1000)
CAMPAIGN_LEASE_SECONDS = env.integer("CAMPAIGN_LEASE_SECONDS", 600, minimum=1, maximum=86400)
CAMPAIGN_BATCH_SECONDS = 20
CAMPAIGN_MAX_ATTEMPTS = 5
# The immediate task backend runs an enqueued task inside the running one: a chain of batches would nest.
CAMPAIGN_SEND_IN_ONE_TASK = False

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework_simplejwt.authentication.JWTAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["accounts.api.permissions.RolePermissions"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.PageNumberPagination",
    "PAGE_SIZE": 50,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_THROTTLE_RATES": {"token": env.rate("TOKEN_THROTTLE_RATE", "10/min")},
    # How many proxies stand in front and may be believed about the client's address.
    "NUM_PROXIES": 0,
    "EXCEPTION_HANDLER": "config.api.exception_handler",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}

SIMPLE_JWT = {
    "SIGNING_KEY": JWT_SIGNING_KEY,
    "ALGORITHM": "HS256",
    "ACCESS_TOKEN_LIFETIME": timedelta(minutes=5),
    "REFRESH_TOKEN_LIFETIME": timedelta(days=1),
    "ROTATE_REFRESH_TOKENS": True,
    "BLACKLIST_AFTER_ROTATION": True,
    # A changed password ends the tokens given out before it.
    "CHECK_REVOKE_TOKEN": True,
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Email Campaign API",
    "DESCRIPTION": "Contacts, lists, message templates and campaigns.",
    "VERSION": VERSION,
    "SERVE_INCLUDE_SCHEMA": False,
    # The page's scripts and styles come from this site: no content delivery network, and a strict CSP.
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {
        "CampaignStatusEnum": "campaigns.models.Campaign.Status",
        "DeliveryStatusEnum": "campaigns.models.Delivery.Status",
    },
}

SECURE_REFERRER_POLICY = "strict-origin-when-cross-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

LOG_LEVEL = env.choice("LOG_LEVEL", ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), "INFO")
