"""Health check of the image's processes, without curl: exit code 0 while well.

Without arguments: web answers 200 on its health path, asked with a configured Host and scheme, the way nginx asks; a
redirect is no answer. With --process: the container's command still runs.
"""

from __future__ import annotations

import http.client
import os
import sys
from pathlib import Path

PORT = 8000
ANSWER_SECONDS = 4


def web_problem() -> str:
    """Ask web; returns what is wrong, or nothing."""
    path = os.environ.get("KIT_HEALTH_PATH", "/")
    headers = {
        "Host": os.environ.get("KIT_HEALTH_HOST", "localhost"),
        "X-Forwarded-Proto": os.environ.get("KIT_FORWARDED_PROTO", "http"),
        "Connection": "close",
    }
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path, headers=headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{path}: no answer ({error})"
    finally:
        connection.close()
    return "" if status == http.client.OK else f"{path}: HTTP {status} for Host {headers['Host']}"


def process_problem() -> str:
    """Look for the command, the child of PID 1 (Docker's init); returns what is wrong, or nothing."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except OSError:
            continue
        if fields["PPid"] == "1" and not fields["State"].startswith("Z"):
            return ""
    return "the command has ended"


if __name__ == "__main__":
    problem = process_problem() if "--process" in sys.argv[1:] else web_problem()
    if problem:
        sys.exit(problem)
