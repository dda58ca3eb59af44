"""HTTP and TLS as a client of the site sees them, over connections that are kept."""

from __future__ import annotations

import http.client
import http.cookies
import json
import re
import socket
import ssl
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import Any
from urllib.parse import urlencode

SECONDS = 10.0


@dataclass(frozen=True)
class Answer:
    """What the site answered."""

    status: int
    headers: Message
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")


@dataclass
class Site:
    """A door of the site.

    Attributes:
        address: where it is seen from here.
        port: on that address.
        name: server name and Host header.
        tls: whether it speaks TLS.
    """

    address: str
    port: int
    name: str
    tls: bool
    _connection: http.client.HTTPConnection | None = field(default=None, repr=False)
    _dead: str = field(default="", repr=False)

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        host: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Make a request; redirects are not followed, and certificates are judged elsewhere.

        Args:
            path: of the request.
            method: of the request.
            body: of the request.
            host: another Host header than the site's name.
            headers: further headers.

        Raises:
            OSError, http.client.HTTPException: no answer.
        """
        if self._dead:
            # Once is enough: a port that drops packets would cost the whole time limit at each check.
            raise ConnectionError(self._dead)
        sent = {"Host": host or self.name, "User-Agent": "kit-smoke", **(headers or {})}
        kept = self._connection is not None
        try:
            return self._ask(method, path, body, sent)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, http.client.CannotSendRequest):
            self.close()
            if not kept:
                raise
            # A kept connection may have been closed meanwhile.
            return self._ask(method, path, body, sent)
        except TimeoutError as error:
            self.close()
            self._dead = f"{self.address}:{self.port} does not answer ({error})"
            raise
        except (OSError, http.client.HTTPException):
            self.close()
            raise

    def close(self) -> None:
        """End the kept connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self.address, self.port, timeout=SECONDS)
            if self.tls:
                self._connection.sock = self.handshake(any_certificate(), self.name)
        self._connection.request(method, path, body, dict(headers))
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.will_close:
            self.close()
        return Answer(answer.status, answer.headers, content)

    def handshake(self, context: ssl.SSLContext, name: str) -> ssl.SSLSocket:
        """Begin TLS on a connection of its own.

        Args:
            context: what to accept.
            name: server name to ask for.

        Raises:
            OSError: it was refused, or nobody answers.
        """
        plain = socket.create_connection((self.address, self.port), timeout=SECONDS)
        try:
            return context.wrap_socket(plain, server_hostname=name)
        except BaseException:
            plain.close()
            raise


def any_certificate() -> ssl.SSLContext:
    """TLS that accepts every certificate."""
    # The default context would read all of the machine's authorities first, to ask none of them.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def only_version(name: str) -> ssl.SSLContext:
    """TLS of one version; ``TLSv1.1`` with every cipher that this machine still has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    version = getattr(ssl.TLSVersion, name.replace(".", "_"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    if name == "TLSv1.1":
        context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def answers(address: str, port: int, seconds: float = 2.0) -> bool:
    """Tell whether somebody accepts connections on a port."""
    try:
        socket.create_connection((address, port), timeout=seconds).close()
    except OSError:
        return False
    return True


@dataclass
class Visitor:
    """Signs in as an account and asks as it.

    Args:
        site: where.
        username: of the account.
        password: of the account; never part of a message.
    """

    site: Site
    username: str
    password: str = field(repr=False)
    _cookies: dict[str, str] = field(default_factory=dict, repr=False)
    _token: str = field(default="", repr=False)
    _signed_in: bool = False

    def sign_in(self, kind: str, how: Mapping[str, Any]) -> None:
        """Sign in.

        Args:
            kind: ``session`` or ``token``.
            how: the manifest's ``login`` for it.

        Raises:
            AssertionError: the site refuses.
        """
        if kind == "token" and not self._token:
            account = json.dumps({"username": self.username, "password": self.password}).encode()
            answer = self.site.ask(
                how["path"], method="POST", body=account, headers={"Content-Type": "application/json"}
            )
            told = json.loads(answer.body) if answer.status == http.client.OK else {}
            if how["key"] not in told:
                raise AssertionError(f"{how['path']} answered {answer.status} to user name and password, no token")
            self._token = f"{how['scheme']} {told[how['key']]}"
        if kind == "session" and not self._signed_in:
            self._log_in(how["path"])
            self._signed_in = True

    def ask(self, kind: str, path: str, **request: Any) -> Answer:
        """Ask as the account; arguments as of :meth:`Site.ask`."""
        own = {"Authorization": self._token} if kind == "token" else {"Cookie": self._cookie()}
        return self.site.ask(path, **{**request, "headers": {**own, **request.get("headers", {})}})

    def _log_in(self, path: str) -> None:
        form = self.site.ask(path)
        self._keep(form)
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form.text)
        if form.status != http.client.OK or token is None:
            raise AssertionError(f"{path} answered {form.status} and no login form of Django's")
        fields = {"username": self.username, "password": self.password, "csrfmiddlewaretoken": token[1]}
        scheme = "https" if self.site.tls else "http"
        answer = self.site.ask(
            path,
            method="POST",
            body=urlencode(fields).encode(),
            headers={
                "Content-Type": "application/x-www-form-urlencoded",
                "Cookie": self._cookie(),
                "Referer": f"{scheme}://{self.site.name}{path}",
            },
        )
        self._keep(answer)
        if answer.status != http.client.FOUND:
            why = "the CSRF check refused it" if answer.status == http.client.FORBIDDEN else "no redirect to the site"
            raise AssertionError(f"{path} answered {answer.status} to user name and password: {why}")

    def _keep(self, answer: Answer) -> None:
        for line in answer.headers.get_all("Set-Cookie") or []:
            parsed: http.cookies.SimpleCookie = http.cookies.SimpleCookie(line)
            self._cookies.update({name: morsel.value for name, morsel in parsed.items()})

    def _cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self._cookies.items())
