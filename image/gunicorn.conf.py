"""How Gunicorn serves the app inside the image; environments differ by the KIT_* variables of the Compose file."""

from __future__ import annotations

import fcntl
import gc
import os
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

try:
    from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER
except ImportError:
    STOP_KEEPALIVE_LINGER = 0.0

# As nginx/conf.d/default.conf.j2 has it.
NGINX_KEEPS_SECONDS = 0.2
# Gunicorn's answer to "how many" is read from the host's processors, which say nothing about a container's share.
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_QUOTA_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_PERIOD_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def processors() -> float:
    """Tell how many processors this container may use, by its cgroup (version 2 or 1), else all that there are."""
    try:
        if _QUOTA.is_file():
            quota, period = _QUOTA.read_text().split()
        else:
            quota, period = _QUOTA_V1.read_text().strip(), _PERIOD_V1.read_text().strip()
        if quota not in ("max", "-1"):
            return int(quota) / int(period)
    except (OSError, ValueError):
        pass
    return float(len(os.sched_getaffinity(0)))


def socket_of_ours(folder: Path) -> str:
    """Choose the socket that nginx finds this container by: in its release's folder, the first number that is free.

    A lock holds the number for as long as any process of ours lives, so a container that was killed leaves none taken.
    """
    number = int(os.environ.get("KIT_WEB_NUMBER", "0"))
    while not number:
        # Gunicorn reads this file again at a reload: the number stays ours, and so does the lock.
        for candidate in range(1, 1000):
            lock = os.open(folder / f"{candidate}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            number = candidate
            break
        os.environ["KIT_WEB_NUMBER"] = str(number)
    return f"unix:{folder}/{number}.sock"


FOLDER = (
    Path(os.environ["KIT_WEB_SOCKETS"], os.environ["KIT_WEB_RELEASE"]) if os.environ.get("KIT_WEB_SOCKETS") else None
)
bind = ["0.0.0.0:8000"]
if FOLDER:
    # nginx comes by a socket: it starts without us, finds us after a reboot, and never takes another release for us.
    bind.append(socket_of_ours(FOLDER))


def pre_request(_worker: Any, request: Any) -> None:
    """Have a connection closed with its answer, once nginx finds another release at its end.

    nginx keeps connections by the path that it reached them by, which is the same for all releases.
    """
    try:
        ours = not FOLDER or (FOLDER.parent / "live").readlink().name == FOLDER.name
    except OSError:
        ours = False
    if not ours:
        request.force_close()


# Those parts of Django that read no settings when they are loaded.
FRAMEWORK = (
    *("django.core.handlers.wsgi", "django.core.cache.backends.redis", "django.core.mail", "django.db.models"),
    *("django.db.backends.postgresql.base", "django.db.migrations", "django.forms", "django.template.backends.django"),
    *("django.contrib.sessions.middleware", "django.contrib.messages.middleware", "django.middleware.csrf"),
    *("django.middleware.common", "django.middleware.security", "django.urls", "django.utils.translation.trans_real"),
)


def on_starting(_arbiter: Any) -> None:
    """Load the framework once for all workers, which takes each of them longer than the project.

    The project is loaded by each worker: it may open connections then, which no two processes may share, and a reload
    reads it anew.
    """
    for name in FRAMEWORK:
        # What an image lacks, such as the driver of another database, is missed by whoever needs it.
        with suppress(Exception):
            import_module(name)


def worker_exit(_arbiter: Any, _worker: Any) -> None:
    """Have a worker that is done end at once: Python would look for garbage in the whole app, and a release waits."""
    gc.freeze()


def on_exit(_arbiter: Any) -> None:
    """As for a worker, after the last of them."""
    gc.freeze()


# Gunicorn's own rule of thumb, (2 x cores) + 1, kept at or below the dozen that its docs call enough.
workers = int(os.environ.get("KIT_WEB_WORKERS", "0")) or max(2, min(12, int(2 * processors()) + 1))
worker_class = "gthread"
threads = int(os.environ.get("KIT_WEB_THREADS", "1"))
# Both longer than nginx waits for an answer, so that nginx gives up first and says so, and shorter than the container's
# stop_grace_period.
timeout = graceful_timeout = int(os.environ.get("KIT_WEB_TIMEOUT", "35"))
# Far longer than nginx keeps an idle connection: it is nginx that closes it, so no request meets a closing one. That
# holds for a worker that ends only if it waits for longer, too; a Gunicorn that does not gets a new one each time.
keepalive = 75 if STOP_KEEPALIVE_LINGER > NGINX_KEEPS_SECONDS else 0
# A worker that leaks is replaced; the jitter keeps them from going all at once.
max_requests, max_requests_jitter = 1000, 100
# A disk that stalls would stall the heartbeat.
worker_tmp_dir = "/dev/shm"  # noqa: S108 - a memory file system of this container
# It would write below HOME, which is read-only.
control_socket_disable = True
reload = os.environ.get("KIT_WEB_RELOAD") == "true"
# Behind nginx nobody else reaches this port; published by itself, the headers of strangers are not believed.
forwarded_allow_ips = "*" if os.environ.get("KIT_FORWARDED_PROTO") == "https" else "127.0.0.1"
accesslog = "-"
access_log_format = '%(h)s "%(r)s" %(s)s %(b)s %(M)sms %({x-request-id}i)s'
