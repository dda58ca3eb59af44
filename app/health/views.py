"""Liveness and readiness."""

import logging

from django.conf import settings
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from health.selectors import CHECKS, problems

logger = logging.getLogger(__name__)


@never_cache
@require_safe
def live(request: HttpRequest) -> JsonResponse:
    """Answer 200 and touch nothing: a database that is away must not restart all web processes."""
    return JsonResponse({"status": "ok"})


@never_cache
@require_safe
def ready(request: HttpRequest) -> JsonResponse:
    """Answer 200 with the release when database, cache and migrations are in order, else 503 naming what is not.

    Reasons go to the log only: this address is open to everybody, and they may name hosts.
    """
    failed = problems()
    for name, reason in failed.items():
        logger.error("Not ready: %s: %s", name, reason)
    body = {
        "status": "unavailable" if failed else "ok",
        "release": settings.RELEASE_ID,
        "checks": {name: "failed" if name in failed else "ok" for name in CHECKS},
    }
    if failed:
        body["failed"] = list(failed)
    return JsonResponse(body, status=503 if failed else 200)
