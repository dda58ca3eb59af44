"""A target while it is checked: its facts, its doors, and an account on it, each fetched once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from http.client import SERVICE_UNAVAILABLE
from typing import Any

import pytest
from kit_control import smoke_report

from smoke.remote import NoAnswer, Remote
from smoke.site import Answer, Site, Visitor
from smoke.target import EDGE, Target

# A page that no site has.
NOWHERE = "/kit-smoke-nowhere"
# Certificates and tokens are judged by the clock; what preflight allows.
CLOCK_SECONDS = 60


class Checked:
    """Keeps what the checks of one target share.

    Args:
        target: which.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.remote = Remote(target)
        self.failed_services: set[str] = set()
        self.checks: list[dict[str, Any]] = []
        self._open = ExitStack()
        self._answers: dict[str, Answer] = {}
        self._facts: Future[tuple[float, dict[str, Any], float]] | None = None
        self._trial: dict[str, Any] | NoAnswer | None = None

    def begin(self, pool: ThreadPoolExecutor) -> None:
        """Ask for the facts, without waiting for them."""
        self._facts = pool.submit(self._ask_facts)

    def _ask_facts(self) -> tuple[float, dict[str, Any], float]:
        begun = time.time()
        told = self.remote.verb("facts", static=True)
        return begun, told, time.time()

    @property
    def facts(self) -> dict[str, Any]:
        """What the host tells; a check that needs it is not run where the host tells nothing."""
        try:
            return self.told[1]
        except NoAnswer:
            pytest.skip("the host told no facts")

    @property
    def told(self) -> tuple[float, dict[str, Any], float]:
        """The facts, and this machine's time before and after.

        Raises:
            NoAnswer: the host told none.
        """
        assert self._facts is not None
        return self._facts.result()

    def containers(self, service: str) -> list[dict[str, Any]]:
        """The facts of a service's containers; a check is not run where there are none."""
        found = [one for one in self.facts["containers"] if one["service"] == service]
        if not found:
            pytest.skip(f"{service} has no container")
        return found

    @cached_property
    def site(self) -> Site:
        """The door that people use: nginx over TLS, else web itself, through SSH where it is on the host's loopback."""
        target = self.target
        service = EDGE if target.has_edge else target.stack["app_services"][0]
        url = str(target.stack["probe"]["url"])
        port = int(url.rpartition(":")[2])
        published = next(one for one in target.published if one.service == service and one.port == port)
        tls = url.startswith("https:")
        if target.is_remote and not published.is_open:
            here = self._open.enter_context(self.remote.tunnel(port))
            return Site("127.0.0.1", here, target.server_names[0], tls)
        return Site(*self._seen(port, published.address), target.server_names[0], tls)

    @cached_property
    def plain(self) -> Site:
        """nginx without TLS."""
        target = self.target
        door = next(one for one in target.published if one.service == EDGE and one.port != self._tls_port())
        return Site(*self._seen(door.port, door.address), target.server_names[0], False)

    def _tls_port(self) -> int:
        return int(str(self.target.stack["probe"]["url"]).rpartition(":")[2])

    def _seen(self, port: int, bound: str) -> tuple[str, int]:
        target = self.target
        seen = target.seen_port(port)
        if seen is None:
            pytest.skip(f"no way leads from here to port {port} (smoke_address, smoke_ports)")
        # On this machine a port bound to one address answers there alone.
        return (bound if bound and not target.is_remote else target.address), seen

    def page(self, path: str) -> Answer:
        """Get a page, once for all checks."""
        if path not in self._answers:
            self._answers[path] = self.site.ask(path)
        return self._answers[path]

    @cached_property
    def closed(self) -> bool:
        """Whether maintenance keeps this machine out; one whose address is let in sees the site, and judges it."""
        # Facts take longer than a page, and are asked for only where they matter.
        return self.page(NOWHERE).status == SERVICE_UNAVAILABLE and bool(self.facts.get("maintenance"))

    def skip_if_closed(self) -> None:
        """Not run a check that asks a page, where maintenance answers for it."""
        if self.closed:
            pytest.skip("maintenance is on")

    @property
    def visitor(self) -> Visitor:
        """Somebody with an account made for the checks."""
        trial = self.trial
        return self._visitor(trial["username"], trial["password"])

    @property
    def trial(self) -> Mapping[str, Any]:
        """An account and, where writing is allowed, an upload, made for the checks and removed after them.

        Raises:
            NoAnswer: they could not be made.
        """
        if self._trial is None:
            requests = [one for one in self.target.project["smoke"] if self.target.writes or not one["writes"]]
            try:
                self._trial = self.remote.verb(
                    "trial",
                    account=any(one["login"] != "none" for one in requests),
                    staff=self.target.project["login"].get("session", {}).get("staff", False),
                    permissions=sorted({name for one in requests for name in one["permissions"]}),
                    upload=self.target.writes and self.target.keeps_uploads,
                )
            except NoAnswer as error:
                self._trial = error
        if isinstance(self._trial, NoAnswer):
            raise self._trial
        return self._trial

    def _visitor(self, username: str, password: str) -> Visitor:
        if not hasattr(self, "_kept_visitor"):
            self._kept_visitor = Visitor(self.site, username, password)
        return self._kept_visitor

    def note(self, check: str, subject: str, outcome: str, reason: str, seconds: float) -> None:
        """Keep a result for the report."""
        self.checks.append(
            {"check": check, "subject": subject, "outcome": outcome, "reason": reason, "seconds": round(seconds, 3)}
        )

    def end(self) -> dict[str, Any]:
        """Remove what was made for the checks, and give the results."""
        if isinstance(self._trial, dict):
            try:
                self.remote.verb("trial", end=True, username=self._trial["username"], file=self._trial.get("file", ""))
            except NoAnswer as error:
                self.note("what was made for the checks is removed", "", smoke_report.FAILED, str(error), 0)
        self._open.close()
        counts = {
            name: sum(one["outcome"] == outcome for one in self.checks)
            for name, outcome in (
                ("passed", smoke_report.PASSED),
                ("failed", smoke_report.FAILED),
                ("not_run", smoke_report.NOT_RUN),
            )
        }
        return {**counts, "checks": self.checks, "logs": self._logs()}

    def _logs(self) -> dict[str, str]:
        if not self.failed_services:
            return {}
        try:
            told: dict[str, str] = self.remote.verb("facts", logs=sorted(self.failed_services))["logs"]
        except NoAnswer:
            return {}
        return told
