"""The settings of each environment, loaded in a process of their own, as a container does."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection

APP = Path(__file__).resolve().parents[2]
KEY = "0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNOPQRSTUVWXYZ"

COMMON = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "SECRET_KEY": f"secret-{KEY}",
    "JWT_SIGNING_KEY": f"signing-{KEY}",
    "DATABASE_HOST": "db",
    "DATABASE_NAME": "app",
    "DATABASE_USER": "app",
    "DATABASE_PASSWORD": "a $word# with \"odd' \\ signs",
}
LOCAL = COMMON | {"DJANGO_ENV": "local", "DEBUG": "true"}
SERVER = COMMON | {
    "EMAIL_HOST": "mail.example.org",
    "DEFAULT_FROM_EMAIL": "News <news@example.org>",
    "STATIC_ROOT": "/var/app/static",
    "MEDIA_ROOT": "/var/app/media",
    "LOG_DIR": "/var/app/logs",
}
DEVELOPMENT = SERVER | {"DJANGO_ENV": "development", "ALLOWED_HOSTS": "dev.example.org"}
PRODUCTION = SERVER | {
    "DJANGO_ENV": "production",
    "ALLOWED_HOSTS": "app.example.org,www.example.org",
    "CSRF_TRUSTED_ORIGINS": "https://app.example.org,https://www.example.org",
    "CACHE_URL": "redis://redis:6379/0",
}

TELL = """
import json
from django.conf import settings
names = ("DEBUG", "ALLOWED_HOSTS", "PUBLIC_URL", "EMAIL_BACKEND", "TASKS", "CACHES", "DATABASES", "SECURE_SSL_REDIRECT",
    "SESSION_COOKIE_SECURE", "SECURE_PROXY_SSL_HEADER", "MIDDLEWARE", "EMAIL_USE_TLS", "SESSION_ENGINE", "LOGGING",
    "SIMPLE_JWT", "REST_FRAMEWORK")
print(json.dumps({name: getattr(settings, name) for name in names}, default=str))
"""


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=APP,
        env={"PATH": os.environ["PATH"], "DJANGO_SETTINGS_MODULE": "config.settings"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def settings_in(environment: dict[str, str]) -> dict:
    done = run(environment, "-c", TELL)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refusal(environment: dict[str, str]) -> str:
    done = run(environment, "-c", TELL)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("django.core.exceptions.ImproperlyConfigured: "), done.stderr
    return last


def test_local() -> None:
    settings = settings_in(LOCAL)
    assert settings["DEBUG"] is True
    assert settings["EMAIL_BACKEND"].endswith("console.EmailBackend")
    assert "Immediate" in settings["TASKS"]["default"]["BACKEND"]
    assert "locmem" in settings["CACHES"]["default"]["BACKEND"]
    assert list(settings["LOGGING"]["handlers"]) == ["console"]
    assert settings["DATABASES"]["default"]["PASSWORD"] == COMMON["DATABASE_PASSWORD"]


def test_development() -> None:
    settings = settings_in(DEVELOPMENT)
    assert settings["DEBUG"] is False
    assert settings["EMAIL_BACKEND"].endswith("smtp.EmailBackend")
    assert "django_tasks_db" in settings["TASKS"]["default"]["BACKEND"]
    assert "whitenoise.middleware.WhiteNoiseMiddleware" in settings["MIDDLEWARE"]
    assert "locmem" in settings["CACHES"]["default"]["BACKEND"]
    assert list(settings["LOGGING"]["handlers"]) == ["console", "file"]
    assert "()" not in settings["LOGGING"]["formatters"]["chosen"]


def test_production() -> None:
    settings = settings_in(PRODUCTION)
    assert settings["ALLOWED_HOSTS"] == ["app.example.org", "www.example.org"]
    assert settings["PUBLIC_URL"] == "https://app.example.org"
    assert settings["SECURE_SSL_REDIRECT"] is True
    assert settings["SESSION_COOKIE_SECURE"] is True
    assert settings["SECURE_PROXY_SSL_HEADER"] == ["HTTP_X_FORWARDED_PROTO", "https"]
    assert "whitenoise.middleware.WhiteNoiseMiddleware" not in settings["MIDDLEWARE"]
    assert settings["CACHES"]["default"]["LOCATION"] == "redis://redis:6379/0"
    assert settings["SESSION_ENGINE"].endswith("cached_db")
    assert "JsonFormatter" in settings["LOGGING"]["formatters"]["chosen"]["()"]
    assert settings["REST_FRAMEWORK"]["NUM_PROXIES"] == 1
    assert settings["SIMPLE_JWT"]["SIGNING_KEY"] == PRODUCTION["JWT_SIGNING_KEY"]


@pytest.mark.parametrize("value", [None, "", "prod", "Production", "local "])
def test_an_unknown_environment_lists_the_valid_ones(value: str | None) -> None:
    environment = dict(PRODUCTION)
    del environment["DJANGO_ENV"]
    message = refusal(environment if value is None else environment | {"DJANGO_ENV": value})
    assert "DJANGO_ENV must be one of local, development, production" in message


REQUIRED_IN_PRODUCTION = sorted(set(PRODUCTION) - {"PYTHONDONTWRITEBYTECODE", "DJANGO_ENV"})


@pytest.mark.parametrize("name", REQUIRED_IN_PRODUCTION)
def test_production_has_no_fallback(name: str) -> None:
    environment = dict(PRODUCTION)
    del environment[name]
    assert name in refusal(environment)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"DEBUG": "true"}, "DEBUG is true in production"),
        ({"DEBUG": "flase"}, "DEBUG must be true or false, but is 'flase'"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY must have at least 50 characters"),
        ({"SECRET_KEY": "a" * 60}, "5 of them distinct"),
        ({"SECRET_KEY": f"django-insecure-{KEY}"}, "SECRET_KEY begins with django-insecure-"),
        ({"JWT_SIGNING_KEY": "short"}, "JWT_SIGNING_KEY must have at least 50 characters"),
        ({"JWT_SIGNING_KEY": PRODUCTION["SECRET_KEY"]}, "SECRET_KEY and JWT_SIGNING_KEY are equal"),
        ({"ALLOWED_HOSTS": " , "}, "ALLOWED_HOSTS is empty"),
        ({"PUBLIC_URL": "http://app.example.org"}, "need an https address"),
        ({"EMAIL_USE_SSL": "true"}, "EMAIL_USE_TLS (STARTTLS, port 587) and EMAIL_USE_SSL"),
        ({"DATABASE_PORT": "70000"}, "DATABASE_PORT must be between 1 and 65535"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL must be one of DEBUG"),
        ({"CAMPAIGN_LEASE_SECONDS": "119"}, "CAMPAIGN_LEASE_SECONDS must be at least 120 in production"),
        ({"DEFAULT_FROM_EMAIL": "News"}, "DEFAULT_FROM_EMAIL must be an address"),
        ({"DEFAULT_FROM_EMAIL": "News <news@>"}, "DEFAULT_FROM_EMAIL must be an address"),
        ({"TOKEN_THROTTLE_RATE": "many"}, "TOKEN_THROTTLE_RATE must be"),
    ],
)
def test_production_refuses_what_is_unsafe(changes: dict[str, str], message: str) -> None:
    assert message in refusal(PRODUCTION | changes)


def test_secrets_come_from_files(tmp_path: Path) -> None:
    environment = dict(PRODUCTION)
    (tmp_path / "key").write_text(environment.pop("JWT_SIGNING_KEY"))
    settings = settings_in(environment | {"JWT_SIGNING_KEY_FILE": str(tmp_path / "key")})
    assert settings["SIMPLE_JWT"]["SIGNING_KEY"] == PRODUCTION["JWT_SIGNING_KEY"]


def test_production_passes_djangos_own_judgement() -> None:
    done = run(PRODUCTION, "-W", "error", "manage.py", "check", "--deploy", "--fail-level", "WARNING")
    assert done.returncode == 0, done.stderr


def test_the_judgement_would_be_heard() -> None:
    """The check above means something: without the secure cookie it fails."""
    code = (
        "import sys, django; from django.conf import settings; settings.SESSION_COOKIE_SECURE = False; django.setup();"
        "from django.core.management import call_command; call_command('check', deploy=True, fail_level='WARNING')"
    )
    done = run(PRODUCTION, "-c", code)
    assert done.returncode != 0
    assert "security.W012" in done.stderr


@pytest.mark.django_db
def test_no_migration_is_missing() -> None:
    from django.core.management import call_command

    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


@pytest.mark.django_db
def test_the_tests_run_on_postgresql_16() -> None:
    assert connection.vendor == "postgresql"
    assert connection.pg_version // 10000 == 16


def test_static_files_are_collected_with_every_reference_resolved(tmp_path: Path) -> None:
    done = run(PRODUCTION | {"STATIC_ROOT": str(tmp_path)}, "manage.py", "collectstatic", "--noinput", "-v0")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "staticfiles.json").read_text())["paths"]
    assert "site/site.css" in manifest
    assert [name for name in manifest.values() if not (tmp_path / name).is_file()] == []
    css = tmp_path / manifest["admin/css/base.css"]
    assert re.search(r"url\(.*\.[0-9a-f]{12}\.svg", css.read_text()) or "url(" not in css.read_text()
    assert css.with_name(f"{css.name}.gz").is_file()


def variables_read() -> set[str]:
    pattern = re.compile(r'env\.(?:text|boolean|integer|words|choice|rate)\(\s*"([A-Z_]+)"')
    return {name for path in (APP / "config").rglob("*.py") for name in pattern.findall(path.read_text())} - {"SAMPLE"}


def test_the_manifest_names_every_variable_that_is_read() -> None:
    import yaml

    manifest = yaml.safe_load((APP / "deploy.yml").read_text())
    assert set(manifest["variables"]) == variables_read()


def test_the_manifests_build_environment_is_enough_to_collect_static_files(tmp_path: Path) -> None:
    import yaml

    build = yaml.safe_load((APP / "deploy.yml").read_text())["build"]
    environment = {name: str(value) for name, value in build["environment"].items()}
    for command in build["commands"]:
        done = run(environment | {"STATIC_ROOT": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}, *command[1:])
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "staticfiles.json").is_file()


def test_development_serves_its_own_static_files(tmp_path: Path) -> None:
    """gunicorn stands alone there: the pages' styles and scripts must come from the process itself."""
    environment = DEVELOPMENT | {"STATIC_ROOT": str(tmp_path), "LOG_DIR": str(tmp_path)}
    assert run(environment, "manage.py", "collectstatic", "--noinput", "-v0").returncode == 0
    code = """
import re, django
django.setup()
from django.test import Client
client = Client(SERVER_NAME="dev.example.org")
for path in ("/", "/api/docs/", "/admin/login/"):
    found = re.findall(r'(?:href|src)="(/static/[^"]+)"', client.get(path).content.decode())
    assert found, path
    for asset in found:
        answer = client.get(asset)
        assert answer.status_code == 200, asset
        assert "immutable" in answer["Cache-Control"], asset
        b"".join(answer.streaming_content)
        answer.close()
"""
    done = run(environment, "-c", code)
    assert done.returncode == 0, done.stderr
