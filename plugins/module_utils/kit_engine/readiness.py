"""Wait until what was started works, and give up at once when it cannot any more."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Optional
from urllib.parse import urlsplit

from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.stack import Probe

# What it may add to a release, once for its own web and once for the site.
POLL_SECONDS = 0.05
# Of a health check, which is a command in its container.
LOOK_SECONDS = 0.2
# Longest that one answer may take; a slower one is asked again.
ANSWER_SECONDS = 5.0
# How an answer that never came begins.
NO_ANSWER = "no answer"
# Asking Docker costs 60 ms, an HTTP request 2 ms: containers are looked at once a second only.
POLLS_PER_LOOK = 20
# An app that answers with errors for so long without a break will not recover by itself: a server that starts, or waits
# for its database, answers with nothing or differently in between.
ERROR_SECONDS = 5.0


def wait_healthy(docker: Docker, service: str, restarts: Mapping[str, int]) -> None:
    """Wait until a service's containers pass their health check.

    The check is executed here as well as by Docker, whose interval would cost seconds.

    Args:
        docker: the stack's containers.
        service: a service that was started.
        restarts: how often each container (by id) may have been restarted; 0 for one that is not named.

    Raises:
        EngineError: a container stopped or was restarted more often, or the time is up; with the end of its log.
    """
    limit = docker.stack.limits.ready_timeout_seconds
    end = time.monotonic() + limit
    while True:
        containers = docker.of(service)
        if not containers:
            raise _gave_up(docker, service, None, "has no container")
        for container in containers:
            refuse_broken(docker, container, restarts.get(container.id, 0))
        if all(is_healthy(docker, container) for container in containers):
            return
        if time.monotonic() > end:
            raise _gave_up(docker, service, containers[0], f"is not healthy after {limit} s")
        time.sleep(LOOK_SECONDS)


def wait_ready(docker: Docker, restarts: Mapping[str, int]) -> None:
    """Wait until the site answers 200 on its readiness path.

    Args:
        docker: the stack's containers.
        restarts: how often each container (by id) may have been restarted; 0 for one that is not named.

    Raises:
        EngineError: a container of the app stopped or was restarted more often, or the time is up; with the last
            answer and the end of the log.
    """
    stack = docker.stack
    limit = stack.limits.ready_timeout_seconds
    end = time.monotonic() + limit
    polls = 0
    while True:
        problem = ask(stack.probe, stack.probe.ready)
        if problem is None:
            return
        if polls % POLLS_PER_LOOK == 0:
            for container in docker.containers():
                if container.service in stack.app_services:
                    refuse_broken(docker, container, restarts.get(container.id, 0))
        if time.monotonic() > end:
            raise EngineError(
                "not_ready",
                f"{stack.probe.url}{stack.probe.ready} is not ready after {limit} s: {problem}\n"
                f"{log(docker, docker.of(stack.web))}",
                stack.make("logs", f"ARGS={stack.web}"),
            )
        polls += 1
        time.sleep(POLL_SECONDS)


def wait_for_web(docker: Docker, sockets: Sequence[Path]) -> None:
    """Wait until each of a release's web containers answers 200 on the readiness path, and passes its health check.

    Args:
        docker: the release, whose web was started.
        sockets: of each of its containers, by which it is asked.

    Raises:
        EngineError: as soon as it is certain that it will not: a container ended, or nothing but errors for
            ERROR_SECONDS; else when ready_timeout_seconds are over. With the end of the log.
    """
    stack = docker.stack
    begun = time.monotonic()
    failing: Optional[float] = None
    checked: Optional[Future[str]] = None
    polls = 0
    with ThreadPoolExecutor(1) as aside:
        while True:
            if checked is None and all(path.exists() for path in sockets):
                # It asks for another path by another way. Its program starts while web does, and waits for the answer.
                checked = aside.submit(_sick, docker)
            problems = [
                problem for problem in (ask(stack.probe, stack.probe.ready, path) for path in sockets) if problem
            ]
            if not problems:
                problem = (checked or aside.submit(_sick, docker)).result()
                if not problem:
                    return
                checked, problems = None, [problem]
            if polls % POLLS_PER_LOOK == 0:
                ours = _ours(docker)
                if not ours:
                    raise EngineError("unhealthy", "The new web containers are gone.", "docker ps --all")
                for item in ours:
                    refuse_broken(docker, item, 0)
            if problems[0].startswith(NO_ANSWER):
                failing = None
            elif failing is None:
                failing = time.monotonic()
            now = time.monotonic()
            if now - begun > stack.limits.ready_timeout_seconds or (failing and now - failing > ERROR_SECONDS):
                raise EngineError(
                    "not_ready",
                    f"The new release does not get ready; {stack.probe.ready} answered for {now - begun:.0f} s: "
                    f"{problems[0]}\n{log(docker, _ours(docker)[:1])}",
                    f"mend the project, then: {stack.make('deploy')}",
                )
            polls += 1
            time.sleep(POLL_SECONDS)


def _ours(docker: Docker) -> list[Container]:
    """The web containers of this very release."""
    return [item for item in docker.of(docker.stack.web) if item.release == docker.stack.release]


def _sick(docker: Docker) -> str:
    """Say which of a release's web containers fails its health check; empty where none does."""
    try:
        failing = [item.name for item in _ours(docker) if not is_healthy(docker, item)]
    except EngineError as error:
        return error.problem
    return f"the health check of {', '.join(failing)} fails" if failing else ""


def ask(probe: Probe, path: str, web_socket: Optional[Path] = None) -> str | None:
    """Ask for a path once, the way the site's own proxy would.

    Args:
        probe: address and Host header.
        path: such as ``/health/ready``.
        web_socket: socket of a web container, to ask that one instead of the site.

    Returns:
        None for a 200, else what was answered; a redirect is no answer.
    """
    headers = {"Host": probe.host, "Connection": "close"}
    if web_socket:
        # nginx comes by it for visitors who came by TLS.
        headers["X-Forwarded-Proto"] = "https"
    try:
        connection = _connect_to(web_socket) if web_socket else _connect(probe)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            status, text = answer.status, answer.read(500).decode("utf-8", "replace").strip()
            target = answer.getheader("Location", "")
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        return f"{NO_ANSWER} ({error})"
    if status == http.client.OK:
        return None
    if 300 <= status < 400:
        return f"HTTP {status}, a redirect to {target}: the health path must answer by itself"
    return f"HTTP {status} for Host {probe.host}: {' '.join(text.split())[:200] or '(empty)'}"


def _connect_to(web_socket: Path) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("localhost", timeout=ANSWER_SECONDS)
    plain = socket.socket(socket.AF_UNIX)
    plain.settimeout(ANSWER_SECONDS)
    folder = os.open(web_socket.parent, os.O_PATH)
    try:
        # A socket's address has room for 107 bytes, and a deploy root may lie deep.
        plain.connect(f"/proc/self/fd/{folder}/{web_socket.name}")
    except OSError:
        plain.close()
        raise
    finally:
        os.close(folder)
    connection.sock = plain
    return connection


def _connect(probe: Probe) -> http.client.HTTPConnection:
    parts = urlsplit(probe.url)
    default = 443 if parts.scheme == "https" else 80
    address = (parts.hostname or "127.0.0.1", parts.port or default)
    connection = http.client.HTTPConnection(*address, timeout=ANSWER_SECONDS)
    if parts.scheme == "https":
        # Whether the certificate is good is judged where it is installed; here only the app behind it counts.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        plain = socket.create_connection(address, timeout=ANSWER_SECONDS)
        connection.sock = context.wrap_socket(plain, server_hostname=probe.host)
    return connection


def is_healthy(docker: Docker, container: Container) -> bool:
    """Tell whether a container passes its health check now, which Docker itself may say seconds later.

    Args:
        docker: the stack's containers.
        container: one of them.

    Raises:
        EngineError: the check took too long.
    """
    if not container.running:
        return False
    if container.health == "healthy" or not container.health_command:
        return True
    return docker.execute(container, container.health_command, limit=ANSWER_SECONDS * 2).code == 0


def refuse_broken(docker: Docker, container: Container, restarts: int) -> None:
    """Give up at once on a container that cannot get ready any more.

    Args:
        docker: the stack's containers.
        container: one of them.
        restarts: how often it may have been restarted.

    Raises:
        EngineError: it stopped, or is restarted over and over; with the end of its log.
    """
    if container.state in ("exited", "dead", "removing"):
        raise _gave_up(docker, container.service, container, f"stopped with exit code {container.exit_code}")
    if container.restarts > restarts:
        raise _gave_up(docker, container.service, container, "ends soon after its start and is restarted over and over")


def _gave_up(docker: Docker, service: str, container: Container | None, what: str) -> EngineError:
    said = log(docker, [container] if container else [])
    return EngineError("unhealthy", f"Service {service} {what}.\n{said}", docker.stack.make("logs", f"ARGS={service}"))


def log(docker: Docker, containers: list[Container]) -> str:
    """Give the end of each container's log, for a message."""
    return "\n".join(f"  The end of {item.name}'s log:\n{docker.last_log_lines(item)}" for item in containers)
