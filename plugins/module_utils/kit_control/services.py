"""Each service of the Compose file as one plain dict, which its template prints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kit_engine.synced_source import RELEASE_FILE

from kit_control.manifest import Manifest
from kit_control.settings import (
    DATABASE_STOP_GRACE_SECONDS,
    EDGE_HTTP_PORT,
    EDGE_HTTPS_PORT,
    EDGE_UID,
    GRACEFUL_MARGIN_SECONDS,
    LOG_DIR,
    MAINTENANCE_ROOT,
    MEDIA_ROOT,
    STATIC_ROOT,
    STOP_MARGIN_SECONDS,
    WEB_CONTAINER_PORT,
    WEB_SOCKETS,
    Owner,
    Settings,
)
from kit_control.variables import as_text


def project_name(name: str, env: str) -> str:
    """Name of the Compose project; networks, volumes and containers on the host carry it."""
    return f"{name}-{env}".replace("_", "-")


def database_volume(project: str, env: str) -> str:
    """Name of the database's volume on the host."""
    return f"{project}_postgres_data_{env}"


def media_volume(project: str) -> str:
    """Name of the volume of the media files on the host."""
    return f"{project}_media_volume"


def networks_of(settings: Settings, project: str) -> dict[str, dict[str, Any]]:
    networks: dict[str, dict[str, Any]] = {}
    if settings["network"]:
        networks[settings["network"]] = {"internal": False}
    if settings["internal_network"]:
        networks["data"] = {"internal": True}
    for key, network in networks.items():
        network["name"] = f"{project}_{key}"
    return networks


def attach_networks(services: Mapping[str, dict[str, Any]], settings: Settings, networks: Mapping[str, Any]) -> None:
    """Put data services on the internal network alone, nginx on the app's alone, the app on both."""
    outer = [settings["network"]] if settings["network"] else []
    inner = ["data"] if settings["internal_network"] else []
    for name, service in services.items():
        if name in ("db", "redis"):
            service["networks"] = inner or outer
        elif name == "nginx":
            service["networks"] = outer
        else:
            service["networks"] = outer + inner
        if not networks:
            service["networks"] = []


def process_names(data: Mapping[str, Any], settings: Settings) -> list[str]:
    wanted = settings["processes"]
    known = data["processes"]
    if wanted == "all":
        return sorted(name for name, entry in known.items() if not entry["optional"])
    return [name for name in wanted if name in known]


def _bounds(settings: Settings, kind: str) -> dict[str, Any] | None:
    return dict(settings["limits"][kind]) if settings["hardened"] else None


def database(settings: Settings, env: str, images: Mapping[str, str]) -> dict[str, Any]:
    volumes = [f"postgres_data_{env}:/var/lib/postgresql/data"]
    if settings["backup_volume"]:
        volumes.append(f"postgres_backup_{env}:/backups")
    return {
        "image": images["postgres"],
        "name": settings["database_name"],
        "user": settings["database_user"],
        # PostgreSQL is its own PID 1: Docker's init stays root, and without CAP_KILL could not hand on the stop signal.
        "init": False,
        "volumes": volumes,
        "ports": _loopback(settings["database_port"], 5432),
        "stop_grace_seconds": DATABASE_STOP_GRACE_SECONDS,
        "read_only": settings["hardened"],
        "tmpfs": ["/tmp", "/run/postgresql"] if settings["hardened"] else [],  # noqa: S108 - inside the container
        # What the official entrypoint needs to hand its folders to the postgres user and to become it (STACK 3.3).
        "cap_add": ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"],
        "bounds": _bounds(settings, "db"),
        "secrets": ["database_password"],
    }


def cache(settings: Settings, env: str, images: Mapping[str, str]) -> dict[str, Any]:
    return {
        "image": images["redis"],
        "user": "999:999",
        "init": True,
        "maxmemory": settings["redis_maxmemory"],
        "volumes": [f"redis_data_{env}:/data"],
        "ports": [],
        "stop_grace_seconds": 30,
        "read_only": settings["hardened"],
        "tmpfs": ["/tmp"] if settings["hardened"] else [],  # noqa: S108 - inside the container
        "cap_add": [],
        "bounds": _bounds(settings, "redis"),
        "secrets": ["redis_password"],
    }


def app_base(
    settings: Settings,
    manifest: Manifest,
    env: str,
    image: str,
    secrets: list[str],
    backing: Mapping[str, Any],
    source_owner: Owner | None,
) -> dict[str, Any]:
    """What web and the other processes of the image share."""
    volumes = []
    if settings["source"] != "image":
        folder = str(manifest.source) if settings["source"] == "read_write" else "../source"
        volumes.append(f"{folder}:/app" + ("" if settings["source"] == "read_write" else ":ro"))
    if settings["app_files"]:
        volumes += [f"static_volume:{STATIC_ROOT}", f"media_volume:{MEDIA_ROOT}", f"../logs:{LOG_DIR}"]
    return {
        "image": image,
        "user": f"{source_owner.uid}:{source_owner.gid}" if source_owner else "",
        "init": True,
        # Beside the Compose file; the engine names the bundle's folder, which the file itself must not hold.
        "env_file": f"${{KIT_BUNDLE:-.}}/.env.{env}",
        # A mounted source brings its release's id along: in the environment it would make the containers anew.
        "release_file": f"/app/{RELEASE_FILE}" if settings["source"] == "read_only" else "",
        "release_variables": [n for n, v in manifest.data["variables"].items() if v.get("from") == "release"],
        "volumes": volumes,
        "has_sockets": False,
        "depends_on": sorted(backing),
        "read_only": settings["hardened"],
        "tmpfs": ["/tmp"] if settings["hardened"] else [],  # noqa: S108 - inside the container
        "cap_add": [],
        "secrets": [f"app_{name}" for name in secrets],
    }


def web(settings: Settings, data: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    if settings["web_server"] == "runserver":
        command = ["python", data["django"]["manage"], "runserver", f"0.0.0.0:{WEB_CONTAINER_PORT}"]
    else:
        command = ["gunicorn", "--config", "/opt/kit/gunicorn.conf.py", data["django"]["wsgi"]]
    ports = [] if settings.has_edge else [f"{settings['web_address']}:{settings['web_port']}:{WEB_CONTAINER_PORT}"]
    sockets = [f"../run:{WEB_SOCKETS}"] if settings.has_edge else []
    return {
        **base,
        "command": command,
        "ports": ports,
        "volumes": [*base["volumes"], *sockets],
        "has_sockets": settings.has_edge,
        "environment": _gunicorn_environment(settings, data) if settings["web_server"] == "gunicorn" else {},
        "replicas": int(settings["web_replicas"]),
        "stop_grace_seconds": data["nginx"]["read_timeout_seconds"] + STOP_MARGIN_SECONDS,
        "bounds": _bounds(settings, "web"),
        "healthcheck": ["python", "/opt/kit/healthcheck.py"],
    }


def _gunicorn_environment(settings: Settings, data: Mapping[str, Any]) -> dict[str, str]:
    return {
        "KIT_WEB_WORKERS": str(settings["web_workers"]),
        "KIT_WEB_THREADS": str(settings["web_threads"]),
        "KIT_WEB_RELOAD": as_text(settings["web_reload"]),
        "KIT_WEB_TIMEOUT": str(data["nginx"]["read_timeout_seconds"] + GRACEFUL_MARGIN_SECONDS),
    }


def process(settings: Settings, entry: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **base,
        "command": entry["command"],
        "ports": [],
        "environment": {},
        "replicas": 1,
        "stop_grace_seconds": entry["stop_grace_seconds"],
        "bounds": _bounds(settings, "process"),
        # PID 1 is Docker's init; a process of ours beside it means that the command still runs.
        "healthcheck": entry.get("healthcheck", ["python", "/opt/kit/healthcheck.py", "--process"]),
    }


def edge(settings: Settings, data: Mapping[str, Any], images: Mapping[str, str]) -> dict[str, Any]:
    address = f"{settings['edge_address']}:" if settings["edge_address"] else ""
    return {
        "image": images["nginx"],
        "user": f"{EDGE_UID}:{EDGE_UID}",
        "init": True,
        "ports": [
            f"{address}{settings['http_port']}:{EDGE_HTTP_PORT}",
            f"{address}{settings['https_port']}:{EDGE_HTTPS_PORT}",
        ],
        "volumes": [
            "../nginx/conf:/etc/nginx/kit:ro",
            "../nginx/ssl:/etc/nginx/ssl:ro",
            "../nginx/acme:/var/www/acme:ro",
            f"../nginx/maintenance:{MAINTENANCE_ROOT}:ro",
            f"../run:{WEB_SOCKETS}:ro",
            f"static_volume:{STATIC_ROOT}:ro",
            f"media_volume:{MEDIA_ROOT}:ro",
        ],
        "stop_grace_seconds": data["nginx"]["read_timeout_seconds"] + STOP_MARGIN_SECONDS,
        "read_only": settings["hardened"],
        "tmpfs": ["/tmp"] if settings["hardened"] else [],  # noqa: S108 - inside the container
        "cap_add": [],
        "bounds": _bounds(settings, "nginx"),
        "secrets": [],
    }


def volumes_of(services: Mapping[str, Mapping[str, Any]], project: str) -> dict[str, str]:
    """Named volumes in use: the key in the Compose file, and the real name, which carries project and environment."""
    keys = {
        volume.split(":")[0]
        for service in services.values()
        for volume in service["volumes"]
        if re.match(r"[a-z_0-9]+:", volume)
    }
    return {key: f"{project}_{key}" for key in sorted(keys)}


def _loopback(port: int, container_port: int) -> list[str]:
    return [f"127.0.0.1:{port}:{container_port}"] if int(port) else []
