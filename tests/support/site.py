"""Ask a site on a port of this machine as a browser would: by its name, over TLS or without."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection

SECONDS = 20


def ask(
    port: int,
    path: str,
    *,
    host: str,
    method: str = "GET",
    body: str | None = None,
    headers: Mapping[str, str] | None = None,
    tls: bool = True,
) -> tuple[HTTPResponse, bytes]:
    """Ask once.

    Args:
        port: on 127.0.0.1.
        path: of the request.
        host: server name in the handshake, and Host header.
        method: of the request.
        body: of the request.
        headers: further ones.
        tls: over TLS; the certificate is not judged.

    Returns:
        The answer and its body.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = HTTPSConnection("127.0.0.1", port, timeout=SECONDS)
        # The server's name goes into the handshake, though the address is another one.
        plain = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        connection.sock = context.wrap_socket(plain, server_hostname=host)
    try:
        connection.request(method, path, body, {"Host": host, **(headers or {})})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()
