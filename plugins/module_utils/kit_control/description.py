"""stack.json: what the engine on the host must know of a release, and what its smoke checks ask. It holds no secret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kit_control import smoke
from kit_control.manifest import Manifest
from kit_control.services import database_volume, media_volume
from kit_control.settings import APP_UID, EDGE_UID, IMAGE_STATIC, STATIC_ROOT, Owner, Settings

_KEPT_BACKUPS = ("keep_daily", "keep_weekly", "keep_monthly", "keep_releases")


def describe(
    manifest: Manifest,
    settings: Settings,
    env: str,
    project: str,
    services: Mapping[str, Mapping[str, Any]],
    images: Mapping[str, str],
    source_owner: Owner | None,
    health_host: str,
    domains: Sequence[str],
) -> dict[str, Any]:
    data = manifest.data
    health = data["health"]
    if settings.has_edge:
        # Docker publishes on every address where none is named.
        address = settings["edge_address"] or "0.0.0.0"  # noqa: S104 - compared with others, not bound
        url = f"https://{settings['edge_address'] or '127.0.0.1'}:{settings['https_port']}"
        ports = [
            _port(address, settings["http_port"], "nginx", "release_bundle_http_port"),
            _port(address, settings["https_port"], "nginx", "release_bundle_https_port"),
        ]
    else:
        url = f"http://{settings['web_address']}:{settings['web_port']}"
        ports = [_port(settings["web_address"], settings["web_port"], "web", "WEB_PORT")]
    if int(settings["database_port"]):
        ports.append(_port("127.0.0.1", settings["database_port"], "db", "DB_PORT"))
    description: dict[str, Any] = {
        "schema": 1,
        "name": manifest.name,
        "env": env,
        "project": project,
        "compose_file": f"docker-compose.{env}.yml",
        "env_file": f".env.{env}",
        "services": list(services),
        "app_services": [name for name in services if name not in ("db", "redis", "nginx")],
        "probe": {
            "url": url,
            "host": health_host,
            "ready": health["ready"],
        },
        "manage": ["python", data["django"]["manage"]],
        "release_commands": data["release"]["commands"],
        "hooks": {
            moment: [
                {name: one[name] for name in ("command", "timeout_seconds")} for one in entries if one["run"] == "image"
            ]
            for moment, entries in data["hooks"].items()
        },
        "secret_variables": sorted(name for name, variable in data["variables"].items() if variable["secret"]),
        "workers_stop_first": data["release"]["worker_stop_before_migrate"],
        "ports": ports,
        "database": None,
        "first_admin": data.get("first_admin") if settings["django_env"] == "local" else None,
        "source": None,
        "app_files": None,
        "edge": None,
        "backup": {
            "level": settings["backup_level"],
            "restore_test_max_bytes": int(settings["backup_restore_test_max_bytes"]),
            "jobs": int(settings["backup_jobs"]),
            "timeout_seconds": int(settings["backup_timeout_seconds"]),
            "schedule": settings["backup_schedule"],
            "drill_schedule": settings["backup_drill_schedule"],
            "ping_url": settings["backup_ping_url"],
            "offsite_repository": settings["backup_offsite_repository"],
            "offsite_check_parts": int(settings["backup_offsite_check_parts"]),
            "local_copy": settings["backup_local_copy"],
            **{name: int(settings[f"backup_{name}"]) for name in _KEPT_BACKUPS},
        },
        "limits": {
            "min_free_bytes": int(settings["min_free_bytes"]),
            "ready_timeout_seconds": int(settings["ready_timeout_seconds"]),
            "command_timeout_seconds": int(settings["command_timeout_seconds"]),
        },
        # A rollback is judged by what was promised of the release it goes to, not of the one it leaves.
        smoke.PROMISED: smoke.expectations(manifest),
    }
    if "db" in services:
        description["database"] = {
            "service": "db",
            "volume": database_volume(project, env),
            "image": images["postgres"],
            "name": settings["database_name"],
            "user": settings["database_user"],
        }
    else:
        description["external"] = {
            "image": images["postgres"],
            "host": settings["database_host"],
            "port": int(settings["database_container_port"]),
            "name": settings["database_name"],
            "user": settings["database_user"],
            "sslmode": settings["database_sslmode"],
        }
    if settings["app_files"]:
        description["app_files"] = {
            "static_source": IMAGE_STATIC if settings["source"] == "image" else None,
            "static_root": STATIC_ROOT,
            "build_commands": data["build"]["commands"],
            "uid": APP_UID,
            "media_volume": media_volume(project),
        }
    if settings.has_edge:
        description["edge"] = {
            "domains": list(domains),
            "uid": EDGE_UID,
            "replicas": int(settings["web_replicas"]),
            "drain_timeout_seconds": int(settings["drain_timeout_seconds"]),
        }
    if source_owner is not None:
        description["source"] = {
            "path": str(manifest.source),
            "writable_paths": [{"path": path} for path in data["writable_paths"]],
            "uid": source_owner.uid,
            "gid": source_owner.gid,
        }
    return description


def _port(address: str, port: Any, service: str, choose: str) -> dict[str, Any]:
    return {"address": address, "port": int(port), "service": service, "choose": choose}
