"""One id per request, in every log line it causes and in the answer."""

import logging
import re
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar

from django.core.signals import request_finished
from django.http import HttpRequest, HttpResponse

HEADER = "X-Request-ID"

# nginx sends 32 hexadecimal digits; other proxies send UUIDs or their own words. Anything else is not copied into logs.
_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{8,64}")

NO_REQUEST = "-"
current_request_id: ContextVar[str] = ContextVar("current_request_id", default=NO_REQUEST)

logger = logging.getLogger("config.request")


def request_id_of(header: str | None) -> str:
    """Return the proxy's id if it is well-formed (8 to 64 letters, digits, dot, underscore, hyphen), else a new one."""
    if header and _WELL_FORMED.fullmatch(header):
        return header
    return uuid.uuid4().hex


class RequestIdFilter(logging.Filter):
    """Put the id of the current request on each record; `-` outside a request."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = current_request_id.get()
        return True


def forget_request_id(**_: object) -> None:
    """Let lines after the request (of the server, or of a worker's next job) carry no id."""
    current_request_id.set(NO_REQUEST)


# Not at the end of the middleware: Django logs refused and failed requests after the last middleware has returned.
request_finished.connect(forget_request_id)


class RequestIdMiddleware:
    """Give the request its id, log its end, and send the id back."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request_id = request_id_of(request.headers.get(HEADER))
        current_request_id.set(request_id)
        started = time.monotonic()
        response = self.get_response(request)
        response[HEADER] = request_id
        # Probes come every few seconds and would bury the rest.
        if not request.path.startswith("/health/"):
            logger.info(
                "%s %s %d",
                request.method,
                request.path,
                response.status_code,
                extra={
                    "method": request.method,
                    "path": request.path,
                    "status": response.status_code,
                    "milliseconds": round((time.monotonic() - started) * 1000),
                },
            )
        return response
