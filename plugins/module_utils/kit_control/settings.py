"""What rendering starts from: the role's inputs, and the numbers and paths that hold in every environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The image's user, the same in every image so that host folders and secret files can be handed to it by number.
APP_UID = 10001
# The user that nginx runs as, and its certificate's key belongs to.
EDGE_UID = 101
# Where the Dockerfile collects static files; a release publishes them to the volume at STATIC_ROOT, to be served.
IMAGE_STATIC = "/opt/static"
STATIC_ROOT = "/var/app/static"
MEDIA_ROOT = "/var/app/media"
LOG_DIR = "/var/app/logs"
WEB_CONTAINER_PORT = 8000
# Where web's containers put the sockets that nginx reaches them by, one each, named by release and number.
WEB_SOCKETS = "/run/kit"
# The set of files that nginx uses; where it looks for maintenance (kit_engine/maintenance.py), what it shows then.
EDGE_CURRENT = "/etc/nginx/kit/current"
MAINTENANCE_ROOT = "/etc/nginx/maintenance"
MAINTENANCE_PAGE = "/kit-maintenance.html"
# Ports of an nginx that runs without privileges.
EDGE_HTTP_PORT, EDGE_HTTPS_PORT = 8080, 8443
# Gunicorn gives requests in flight longer than nginx waits for their answer, and the container gives Gunicorn longer.
GRACEFUL_MARGIN_SECONDS, STOP_MARGIN_SECONDS = 5, 15
# PostgreSQL's fast shutdown writes a checkpoint first; Docker's 10 s would cut it short.
DATABASE_STOP_GRACE_SECONDS = 120
MISSING = "__MISSING__"
SECRET_FOLDER = "/run/secrets"  # noqa: S105 - where Compose mounts secrets


@dataclass(frozen=True)
class Settings:
    """The inputs of role release_bundle, by the names of its defaults without the prefix."""

    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def has_edge(self) -> bool:
        """Whether nginx stands before web."""
        return bool(self["edge"] == "nginx")


@dataclass(frozen=True)
class Owner:
    """User and group that a mounted source is written as."""

    uid: int
    gid: int
