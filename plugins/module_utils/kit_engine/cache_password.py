"""Have Redis accept the password that the app is given: Redis itself reads it only when it starts.

A release that wants another one has Redis made anew. One that comes back after it need not: Redis is told of its
password beside the one that it was started with, which its health check and the release that serves still go by. With
its next start Redis reads what lies in the secret's place then, and knows of no other.

Redis is told a hash, through the container's local socket; the password itself goes nowhere.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from kit_engine import command, readiness
from kit_engine.docker import Docker
from kit_engine.errors import EngineError

# The secret, and who reads it, as compose/services/redis.yml.j2 has them.
FILE, SERVICE = Path("shared/secrets/redis_password"), "redis"
# What it was started with: Docker keeps that file mounted, whatever lies in its place by now.
_CLIENT = 'REDISCLI_AUTH="$(cat /run/secrets/redis_password)" exec redis-cli'


def ensure(docker: Docker) -> None:
    """Have Redis accept the password that is the secret now.

    Args:
        docker: the stack's containers; its secrets are in place. A Redis that does not run reads it when it starts.

    Raises:
        EngineError: it could not be told, was made anew for that, and does not get healthy.
    """
    secret = docker.stack.root / FILE
    if SERVICE not in docker.stack.backing_services or not secret.is_file():
        return
    running = next((item for item in docker.of(SERVICE) if item.running), None)
    if running is None:
        return
    # As the shell of its start takes it.
    digest = hashlib.sha256(secret.read_bytes().rstrip(b"\n")).hexdigest()
    words = ("sh", "-c", _CLIENT)
    try:
        told = docker.execute(
            running, words, stdin=f"ACL SETUSER default #{digest}\n", limit=command.QUICK_SECONDS
        ).out.strip()
    except EngineError as error:
        told = error.problem
    if told != "OK":
        # One of before version 6, or one that hangs.
        again = ("up", "--detach", "--no-deps", "--no-build", "--pull", "never", "--force-recreate", SERVICE)
        docker.compose(*again, code="start", remedy=docker.stack.make("logs", f"ARGS={SERVICE}"), ending=[running])
        readiness.wait_healthy(docker, SERVICE, {})
