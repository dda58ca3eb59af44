"""Requests a second, asked for on loopback ports alone, bounded in number and time."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.figures import UnfitError, rate
from bench.stack import BARE_PORT, GUNICORN_PORT, ROOT, SITE, Stack

ROUNDS = 5
SECONDS, MOST_REQUESTS, AT_ONCE = 5, 60_000, 16
# Closed connections hold their ports for a minute; with these few left, a run does not feel those of the one before.
FEW_CLOSED, LONGEST_REST, SHORTEST_REST = 100, 70.0, 3.0
STATIC_ROOT, VIEW = "/var/app/static", "/health/live"

_BARE = """\
worker_processes auto;
pid /tmp/nginx.pid;
error_log /dev/stderr;
events {}
http {
  include /etc/nginx/mime.types;
  access_log /dev/stdout;
  sendfile on;
  client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
  server {
    listen 8443 ssl;
    ssl_certificate SSL/fullchain.pem;
    ssl_certificate_key SSL/privkey.pem;
    location /static/ { alias STATIC/; }
  }
}
"""


def rounds(stack: Stack) -> list[dict[str, float]]:
    """Measure.

    Args:
        stack: is up.

    Returns:
        By round, requests a second of nginx on a static file, of a bare nginx on the same one, of a trivial view
        through nginx, and straight at Gunicorn.

    Raises:
        UnfitError: an answer was not good.
    """
    _demand_ab()
    path = _static_path(stack)
    ports = stack.host.ports
    found = []
    with _bare(stack), _straight(stack):
        for _ in range(ROUNDS):
            found.append(
                {
                    "static": _ask(stack, f"https://127.0.0.1:{ports[443]}{path}"),
                    "bare": _ask(stack, f"https://127.0.0.1:{ports[BARE_PORT]}{path}"),
                    "view": _ask(stack, f"https://127.0.0.1:{ports[443]}{VIEW}"),
                    "gunicorn": _ask(stack, f"http://127.0.0.1:{ports[GUNICORN_PORT]}{VIEW}"),
                }
            )
    return found


def _demand_ab() -> None:
    """Bring `ab`, where this machine lacks it."""
    if shutil.which("ab"):
        return
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    words = [*sudo, "apt-get", "install", "--yes", "--no-install-recommends", "apache2-utils"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise UnfitError(f"`ab` is not here, and cannot be installed:\n{done.stderr}\nNext: {shlex.join(words)}")


def _static_path(stack: Stack) -> str:
    """A style sheet, as pages link it."""
    told = stack.root(f"docker exec {stack.project}-web-1 cat {STATIC_ROOT}/staticfiles.json")
    paths = sorted(str(path) for path in json.loads(told)["paths"].values())
    return "/static/" + next(path for path in paths if re.search(r"site\.[0-9a-f]+\.css$", path))


def _ask(stack: Stack, url: str) -> float:
    _rest(stack)
    words = ["ab", "-q", "-k", "-c", str(AT_ONCE), "-t", str(SECONDS), "-n", str(MOST_REQUESTS), "-s", "10"]
    # As nginx tells Gunicorn; nginx itself overwrites it.
    words += ["-H", f"Host: {SITE}", "-H", "X-Forwarded-Proto: https"]
    done = subprocess.run([*words, url], capture_output=True, text=True, timeout=SECONDS + 30, check=False)
    if done.returncode:
        raise UnfitError(f"ab {url} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return rate(done.stdout)


def _rest(stack: Stack) -> None:
    end = time.monotonic() + LONGEST_REST
    time.sleep(SHORTEST_REST)
    while time.monotonic() < end:
        here, there = Path("/proc/net/sockstat").read_text(), stack.root("cat /proc/net/sockstat")
        closed = [int(number) for number in re.findall(r"^TCP:.* tw (\d+)", f"{here}\n{there}", re.MULTILINE)]
        if max(closed) < FEW_CLOSED:
            return
        time.sleep(2)


@contextmanager
def _bare(stack: Stack) -> Iterator[None]:
    """nginx with nothing but the file, in the same image, with the same limits, certificate and volume."""
    (own,) = json.loads(stack.root(f"docker inspect {stack.project}-nginx-1"))
    (volume,) = [mount["Name"] for mount in own["Mounts"] if mount["Destination"] == STATIC_ROOT]
    limits = own["HostConfig"]
    conf = _BARE.replace("SSL", f"/ssl/{Path(ROOT).name}/current").replace("STATIC", STATIC_ROOT)
    words = ["docker", "run", "--detach", "--name", "bare", "--user", own["Config"]["User"], "--pull", "never"]
    words += [f"--memory={limits['Memory']}", f"--cpus={limits['NanoCpus'] / 1e9}", f"--publish={BARE_PORT}:8443"]
    words += [f"--volume={volume}:{STATIC_ROOT}:ro", f"--volume={ROOT}/shared/nginx/ssl:/ssl:ro"]
    words += ["--volume=/srv/bare:/bare:ro", own["Config"]["Image"], "nginx", "-c", "/bare/nginx.conf"]
    stack.root(f"mkdir -p /srv/bare; cat > /srv/bare/nginx.conf << 'EOF'\n{conf}EOF\n")
    stack.root(shlex.join([*words, "-g", "daemon off;"]))
    try:
        yield
    finally:
        stack.root("docker rm --force --volumes bare > /dev/null; rm -r /srv/bare")


@contextmanager
def _straight(stack: Stack) -> Iterator[None]:
    """One more container of web, whose port is published: the stack's own has none."""
    bundle = stack.root(f"readlink -f {ROOT}/current").strip()
    stack.root(
        f"export KIT_BUNDLE={bundle} KIT_RELEASE={Path(bundle).name}\n"
        f"docker compose --project-name {stack.project} --project-directory {ROOT}/shared/compose "
        f"--file {bundle}/docker-compose.prod.yml run --detach --no-deps --name straight "
        f"--publish {GUNICORN_PORT}:8000 web\n"
        "for _ in $(seq 100); do [ \"$(docker inspect -f '{{.State.Health.Status}}' straight)\" = healthy ] && exit 0\n"
        "  sleep 0.3; done; docker logs straight >&2; exit 1"
    )
    try:
        yield
    finally:
        stack.root("docker rm --force --volumes straight > /dev/null")
