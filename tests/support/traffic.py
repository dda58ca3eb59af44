"""Requests at a steady rate to a loopback port while something happens, each of them written down."""

from __future__ import annotations

import itertools
import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

# Longer than any answer that is waited for here.
ANSWER_SECONDS = 60.0
# Requests are spread over this many clients; each waits for its answer before its next turn.
CLIENTS = 32
OK = 200


@dataclass(frozen=True)
class Request:
    """One request: when it was sent and answered (seconds of the monotonic clock), and what came of it."""

    sent: float
    answered: float
    method: str
    path: str
    kept: bool
    status: int
    problem: str = ""


@dataclass(frozen=True)
class Summary:
    """What became of all requests.

    Attributes:
        requests: all of them.
        failed: those without a 200.
        longest_gap: seconds between one good answer and the next one.
        slowest: seconds that the slowest good answer of the steady ones took.
        median: the same, of half of them.
    """

    requests: tuple[Request, ...]
    failed: tuple[Request, ...]
    longest_gap: float
    slowest: float
    median: float

    @property
    def count(self) -> int:
        """How many."""
        return len(self.requests)


def summary(requests: Sequence[Request]) -> Summary:
    """Sum requests up; those that were to take long (``/slow``) count as failed or not, and in no time."""
    failed = tuple(one for one in requests if one.status != OK)
    steady = [one for one in requests if one.status == OK and not one.path.startswith("/slow")]
    answers = sorted(one.answered for one in steady)
    took = sorted(one.answered - one.sent for one in steady)
    gaps = [later - earlier for earlier, later in itertools.pairwise(answers)]
    return Summary(
        requests=tuple(requests),
        failed=failed,
        longest_gap=max(gaps, default=0.0),
        slowest=took[-1] if took else 0.0,
        median=took[len(took) // 2] if took else 0.0,
    )


def read(path: Path) -> list[Request]:
    """Read requests that were written down."""
    return [Request(**json.loads(line)) for line in path.read_text().splitlines()]


class Traffic:
    """Clients at work; half of the requests POST, half of the clients keep their connection.

    Args:
        port: of 127.0.0.1, with TLS.
        host: the site's name.
        rate: requests a second, all together.
        get, post: paths.
    """

    def __init__(self, port: int, host: str, rate: float, get: str, post: str) -> None:
        self.port, self.host, self.rate, self.paths = port, host, rate, (("GET", get), ("POST", post))
        self.requests: list[Request] = []
        # One for all: to make it reads the machine's authorities, which takes as long as ten requests.
        self._context = ssl.create_default_context()
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE
        self._ends = threading.Event()
        self._slow: list[threading.Thread] = []
        self._own: HTTPSConnection | None = None

    @contextmanager
    def running(self, log: Path | None = None) -> Iterator[Traffic]:
        """Send for as long as the block lasts; all answers are there at its end.

        Args:
            log: where each request is written to as a JSON line.
        """
        clients = [threading.Thread(target=self._client, args=(number,), daemon=True) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            yield self
        finally:
            self._ends.set()
            for client in (*clients, *self._slow):
                client.join(ANSWER_SECONDS + 5)
            if log:
                log.parent.mkdir(parents=True, exist_ok=True)
                log.write_text("".join(json.dumps(asdict(one)) + "\n" for one in self.requests))

    def slow(self, path: str) -> None:
        """Send one request that takes long, beside the others."""
        thread = threading.Thread(target=self._ask, args=(None, "GET", path, False), daemon=True)
        self._slow.append(thread)
        thread.start()

    def text(self, path: str) -> str:
        """Ask for a page beside the others, over one connection that is kept; its text, empty where there is none."""
        try:
            if self._own is None or _was_closed(self._own):
                self._own = self._connect()
            self._own.request("GET", path, headers={"Host": self.host})
            answer = self._own.getresponse()
            return answer.read().decode() if answer.status == OK else ""
        except (OSError, HTTPException):
            self._own = None
            return ""

    def _client(self, number: int) -> None:
        kept = number % 2 == 0
        connection: HTTPSConnection | None = None
        pause = CLIENTS / self.rate
        turn = time.monotonic() + pause * number / CLIENTS
        count = number // 2
        while not self._ends.wait(max(0.0, turn - time.monotonic())):
            method, path = self.paths[count % 2]
            count += 1
            connection = self._ask(connection, method, path, kept)
            # One that was late does not hurry.
            turn = max(turn + pause, time.monotonic())

    def _ask(self, connection: HTTPSConnection | None, method: str, path: str, kept: bool) -> HTTPSConnection | None:
        if connection is not None and _was_closed(connection):
            connection.close()
            connection = None
        sent = time.monotonic()
        status, problem = 0, ""
        try:
            connection = connection or self._connect()
            body = "text=hello" if method == "POST" else None
            headers = {"Host": self.host, "Content-Type": "application/x-www-form-urlencoded"}
            connection.request(method, path, body, headers | ({} if kept else {"Connection": "close"}))
            answer = connection.getresponse()
            answer.read()
            status = answer.status
            if answer.will_close:
                connection.close()
                connection = None
        except (OSError, HTTPException) as error:
            problem = f"{type(error).__name__}: {error}"
            if connection:
                connection.close()
            connection = None
        self.requests.append(Request(sent, time.monotonic(), method, path, kept, status, problem))
        return connection

    def _connect(self) -> HTTPSConnection:
        # Without a context it makes one of its own, which is never used.
        connection = HTTPSConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS, context=self._context)
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sock = self._context.wrap_socket(plain, server_hostname=self.host)
        return connection


def _was_closed(connection: HTTPSConnection) -> bool:
    """A server may end a connection that is idle; whoever keeps one looks before using it again, as browsers do."""
    return connection.sock is None or bool(select.select([connection.sock], [], [], 0)[0])
