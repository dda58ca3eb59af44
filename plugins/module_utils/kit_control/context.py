"""From manifest and inventory to what the templates print, computed here so that templates only print.

Paths are those of the Compose project directory, ``<deploy_root>/shared/compose``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kit_engine.stack import EXTERNAL_SECRETS, OFFSITE_SECRETS

from kit_control import description, services, variables
from kit_control.errors import KitError
from kit_control.manifest import Manifest
from kit_control.settings import (
    EDGE_CURRENT,
    MAINTENANCE_PAGE,
    MAINTENANCE_ROOT,
    MEDIA_ROOT,
    MISSING,
    SECRET_FOLDER,
    STATIC_ROOT,
    WEB_SOCKETS,
    Owner,
    Settings,
)


@dataclass(frozen=True)
class Stack:
    """One environment of one project, ready to print.

    Attributes:
        context: variables of every template.
        environment: the app's variables for the .env file, in the manifest's order.
        secrets: values that reach containers as files, by secret name.
        missing: names of required values that nobody gave, rendered as ``__MISSING__<NAME>``.
        description: what the engine on the host must know (stack.json); holds no secret.
    """

    context: dict[str, Any]
    environment: dict[str, str]
    secrets: dict[str, str]
    missing: tuple[str, ...]
    description: dict[str, Any]
    meanings: dict[str, str] = field(default_factory=dict)


class _References(dict[str, str]):
    """References of images by name; one that is lacking is an error that says who gives it."""

    def __missing__(self, name: str) -> str:
        raise KitError(
            "images",
            f"No reference of the image {name} was given to role release_bundle.",
            "let the roles base_images and app_image run before it, or set release_bundle_images",
        )


def build(
    manifest: Manifest,
    settings: Settings,
    env: str,
    images: Mapping[str, str],
    source_owner: Owner | None = None,
) -> Stack:
    """Compute everything that rendering prints.

    Args:
        manifest: the project.
        settings: inputs of role release_bundle.
        env: name of the environment.
        images: reference of each image: app, postgres, redis, nginx.
        source_owner: who a source that is mounted writable belongs to.

    Returns:
        The stack.

    Raises:
        KitError: a service has no image.
    """
    images = _References(images)
    data = manifest.data
    project = services.project_name(manifest.name, env)
    values = variables.resolve(data, settings)
    as_files = settings["secrets"] == "files"
    declared: Mapping[str, Mapping[str, Any]] = data["variables"]
    secret_names = [name for name in values.given if declared[name]["secret"]]
    environment: dict[str, str] = {}
    secrets: dict[str, str] = {}
    for name, value in values.given.items():
        if as_files and name in secret_names:
            environment[f"{name}_FILE"] = f"{SECRET_FOLDER}/{name}"
            secrets[name] = value
        else:
            environment[name] = value
    meanings = {name: str(variable["meaning"]) for name, variable in declared.items()}
    environment.setdefault("DJANGO_SETTINGS_MODULE", data["django"]["settings_module"])
    environment.update(_server_environment(settings, manifest))

    runs_database = settings["database"] == "container"
    runs_cache = data["services"]["cache"] and settings["cache"] == "redis"
    kit_secrets = {}
    if runs_database:
        kit_secrets["database_password"] = values.database_password
    if runs_cache:
        kit_secrets["redis_password"] = values.redis_password
    # For the engine alone: no service mounts it.
    own = {}
    if settings["backup_offsite_repository"]:
        names = ("environment", "ssh_key", "known_hosts")
        own[OFFSITE_SECRETS] = json.dumps({name: settings[f"backup_offsite_{name}"] for name in names}) + "\n"
    if not runs_database:
        told = {"password": values.database_password, "root_certificate": settings["database_root_certificate"]}
        own[EXTERNAL_SECRETS] = json.dumps(told) + "\n"
    networks = services.networks_of(settings, project)
    processes = services.process_names(data, settings)
    stack: dict[str, dict[str, Any]] = {}
    if runs_database:
        stack["db"] = services.database(settings, env, images)
    if runs_cache:
        stack["redis"] = services.cache(settings, env, images)
    app_base = services.app_base(
        settings, manifest, env, images["app"], sorted(secrets) if as_files else [], stack, source_owner
    )
    stack["web"] = services.web(settings, data, app_base)
    for name in processes:
        stack[name] = services.process(settings, data["processes"][name], app_base)
    if settings.has_edge:
        stack["nginx"] = services.edge(settings, data, images)
    services.attach_networks(stack, settings, networks)
    files = {f"app_{name}": name for name in sorted(secrets)} | {name: name for name in kit_secrets}
    context = {
        "env": env,
        "name": manifest.name,
        "project": project,
        "services": stack,
        "networks": networks,
        "volumes": services.volumes_of(stack, project),
        "secret_files": files,
        "nginx": _nginx(settings, data, manifest.name, values.missing),
        "web_sockets": WEB_SOCKETS,
    }
    return Stack(
        context=context,
        environment=environment,
        secrets={**secrets, **kit_secrets, **own},
        missing=tuple(values.missing),
        description=description.describe(
            manifest,
            settings,
            env,
            project,
            stack,
            images,
            source_owner,
            _health_host(settings, manifest),
            _domains(settings, data, values.missing),
        ),
        meanings=meanings,
    )


def _health_host(settings: Settings, manifest: Manifest) -> str:
    """A name that the site answers to, for questions about its health."""
    host = next(iter([*settings["domains"], *manifest.data["domains"]]), f"{MISSING}app_domains")
    return str(host).replace("*.", "health.")


def _server_environment(settings: Settings, manifest: Manifest) -> dict[str, str]:
    """What Gunicorn's configuration file and the image's health check read."""
    return {
        "KIT_HEALTH_PATH": manifest.data["health"].get("live", manifest.data["health"]["ready"]),
        "KIT_HEALTH_HOST": _health_host(settings, manifest),
        "KIT_FORWARDED_PROTO": "https" if settings.has_edge else "http",
    }


def _domains(settings: Settings, data: Mapping[str, Any], missing: list[str]) -> list[str]:
    """The host names of the site."""
    domains = list(settings["domains"]) or list(data["domains"])
    return [f"{MISSING}app_domains"] if not domains and "app_domains" in missing else domains


def _nginx(settings: Settings, data: Mapping[str, Any], name: str, missing: list[str]) -> dict[str, Any]:
    extra = data["nginx"]
    return {
        "server_names": _domains(settings, data, missing),
        "https_suffix": "" if settings["https_port"] == 443 else f":{settings['https_port']}",
        "web_replicas": int(settings["web_replicas"]),
        "hsts_seconds": settings["hsts_seconds"],
        "hsts_include_subdomains": settings["hsts_subdomains"],
        "static_url": data["static"]["url"],
        "static_pattern": re.escape(data["static"]["url"]),
        "static_root": STATIC_ROOT,
        "health_paths": sorted(set(data["health"].values())),
        "maintenance_root": MAINTENANCE_ROOT,
        "maintenance_page": MAINTENANCE_PAGE,
        "current": EDGE_CURRENT,
        "media_url": data["media"]["url"],
        "media_root": MEDIA_ROOT,
        "client_max_body_size": extra["client_max_body_size"],
        "read_timeout_seconds": extra["read_timeout_seconds"],
        "rate_limited_paths": extra["rate_limited_paths"],
        "rate_limit_per_minute": settings["rate_limit_per_minute"],
        "rate_limit_burst": settings["rate_limit_burst"],
        "csp": extra["content_security_policy"],
        "extra": extra["extra"],
        "certificate": f"/etc/nginx/ssl/{name}/current/fullchain.pem",
        "certificate_key": f"/etc/nginx/ssl/{name}/current/privkey.pem",
        "acme_root": "/var/www/acme",
        "real_ip_from": list(settings["trusted_proxies"]),
    }
