"""Runs every check for every host of a plan, and reports per host; see docs/OPERATIONS.md, "Smoke checks"."""

from __future__ import annotations

import importlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kit_control import smoke, smoke_report
from support.cis import RULES

from smoke.checked import Checked
from smoke.target import DATA_PORTS, EDGE, TLS_VERSIONS, Target, read

_STATE = pytest.StashKey["_Run"]()


class _Run:
    """One run of the checks."""

    def __init__(self, plan: Path) -> None:
        self.plan = plan
        self.begun = time.monotonic()
        self.targets = read(plan)
        self.checked = {target.host: Checked(target) for target in self.targets}
        self.pool = ThreadPoolExecutor(max_workers=max(1, len(self.targets)))
        self.results: dict[str, Any] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the plan that role smoke wrote."""
    default = os.environ.get("SMOKE_PLAN") or f"build/{os.environ.get('ENV') or 'local'}/smoke-plan.json"
    parser.addoption(
        "--smoke-plan",
        default=default,
        metavar="PATH",
        help="hosts to check; make smoke writes it (default %(default)s)",
    )
    parser.addoption("--smoke-wait", type=int, metavar="FD", help="wait for a byte there before the plan is read")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the plan, once it is there; results and JUnit's XML go beside it."""
    waits = config.getoption("--smoke-wait")
    if waits is not None:
        # What collecting imports is there by then.
        for path in sorted(Path(__file__).parent.glob("test_*.py")):
            importlib.import_module(f"smoke.{path.stem}")
        _end_with(waits)
        threading.Thread(target=_end_with, args=(waits,), daemon=True).start()
    plan = Path(config.getoption("--smoke-plan"))
    if not plan.is_file():
        raise pytest.UsageError(
            f"There is no plan at {plan}: nothing was checked yet.\nNext: make smoke ENV=<environment>"
        )
    run = config.stash[_STATE] = _Run(plan)
    if not config.option.collectonly:
        # All hosts at once, and while the checks are still being collected.
        for checked in run.checked.values():
            checked.begin(run.pool)
    config.option.xmlpath = config.option.xmlpath or str(plan.with_name("smoke.xml"))


def _end_with(waits: int) -> None:
    """Take the next byte; without one nobody wants the checks any more."""
    if not os.read(waits, 1):
        os._exit(pytest.ExitCode.INTERRUPTED)


def _requests(target: Target) -> list[tuple[Any, str, list[pytest.MarkDecorator]]]:
    found = []
    for one in target.project["smoke"]:
        marks = [pytest.mark.writes] if one["writes"] else []
        # Signing in starts Django in a container once: too long for a deploy to wait.
        if one["login"] == "none" and not one["writes"]:
            marks.append(pytest.mark.gate)
        found.append((one, one["name"], marks))
    return found


# By name of a test's argument: what it goes through for a target, each with its label and marks.
_SUBJECTS: dict[str, Callable[[Target], list[tuple[Any, str, list[pytest.MarkDecorator]]]]] = {
    "rule": lambda target: [((name, rule), name, []) for rule in RULES for name in target.services],
    "service": lambda target: [(name, name, []) for name in target.services],
    "published": lambda target: [(one, f"{one.service} {one.port}", []) for one in target.published],
    "data_service": lambda target: [(name, name, []) for name in DATA_PORTS if name in target.services],
    "header": lambda target: [(name, name, []) for name in target.headers] if target.has_edge else [],
    "smoke_request": _requests,
    "tls_version": lambda target: [(name, name, []) for name in TLS_VERSIONS] if target.has_edge else [],
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each check its targets, and what it goes through there, one case each: a failure hides no other."""
    targets = metafunc.config.stash[_STATE].targets
    key = next((name for name in _SUBJECTS if name in metafunc.fixturenames), None)
    if key is None:
        metafunc.parametrize("target", targets, ids=[target.host for target in targets])
        return
    nothing = pytest.mark.skip(reason="the rendered files have nothing of the kind")
    cases = []
    for target in targets:
        found = _SUBJECTS[key](target)
        cases += [
            pytest.param(target, value, id=f"{target.host}-{number}-{label}", marks=marks)
            for number, (value, label, marks) in enumerate(found)
        ]
        if not found:
            cases.append(pytest.param(target, None, id=target.host, marks=nothing))
    metafunc.parametrize(("target", key), cases)


@pytest.fixture
def checked(request: pytest.FixtureRequest, target: Target) -> Checked:
    """The target with what its checks share."""
    found: Checked = request.config.stash[_STATE].checked[target.host]
    return found


@pytest.fixture(autouse=True)
def _allowed(request: pytest.FixtureRequest, target: Target) -> None:
    if request.node.get_closest_marker("writes") and not target.writes:
        pytest.skip("it writes, and the inventory does not allow that (smoke_writes)")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave word of where a run is, for whoever ends one that hangs."""
    plan: Path = item.config.stash[_STATE].plan
    plan.with_name(smoke.BEGUN).write_text(item.name, encoding="utf-8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what needs no facts: the site answers before the host has told them."""
    items.sort(key=lambda item: item.path.stem not in ("test_site", "test_https"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Iterator[None]:  # a wrapper yields once, and gives back the report
    """Keep each result for the report, under a name that people read."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    verdict = _verdict(report, call)
    if verdict:
        parameters: dict[str, Any] = dict(item.callspec.params)
        target: Target = parameters["target"]
        checked = item.config.stash[_STATE].checked[target.host]
        name, subject = item.originalname.removeprefix("test_").replace("_", " "), _subject(item, target)
        # Whose log tells more of a failure; none does of one of the host.
        by_file = {"test_site": target.stack["app_services"][0], "test_https": EDGE if target.has_edge else ""}
        service = parameters.get("service") or parameters.get("data_service") or by_file.get(item.path.stem, "")
        if parameters.get("rule"):
            service, rule = parameters["rule"]
            name = f"CIS {rule}"
        outcome, reason = verdict
        checked.note(name, subject, outcome, reason, report.duration)
        if outcome == smoke_report.FAILED and service:
            checked.failed_services.add(service)
        report.user_properties += [("host", target.host), ("check", name), ("subject", subject)]
    return report  # type: ignore[return-value]


def _subject(item: pytest.Function, target: Target) -> str:
    return item.callspec.id.removeprefix(target.host).lstrip("-").partition("-")[2]


def _verdict(report: pytest.TestReport, call: pytest.CallInfo[None]) -> tuple[str, str] | None:
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        return smoke_report.NOT_RUN, str(reason).removeprefix("Skipped: ")
    if report.failed:
        said = str(call.excinfo.value) if call.excinfo else "no reason"
        return smoke_report.FAILED, (said.strip().splitlines() or ["no reason"])[0]
    return (smoke_report.PASSED, "") if report.when == "call" else None


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Tidy up, and write the results, where the checks came to a verdict."""
    run = session.config.stash.get(_STATE, None)
    if run is None or session.config.option.collectonly:
        return
    hosts = {host: checked.end() for host, checked in run.checked.items()}
    run.pool.shutdown(wait=False, cancel_futures=True)
    if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return
    failed = any(told["failed"] for told in hosts.values())
    run.results = {
        "schema": 1,
        "env": run.targets[0].env if run.targets else "",
        "gate": session.config.option.markexpr == "gate",
        "ok": not failed and any(told["passed"] for told in hosts.values()),
        "seconds": round(time.monotonic() - run.begun, 2),
        "hosts": hosts,
    }
    # Whole or not at all: it is the verdict.
    results = run.plan.with_name(smoke.RESULTS)
    new = results.with_name(f".{results.name}.{os.getpid()}")
    new.write_text(json.dumps(run.results, indent=2) + "\n", encoding="utf-8")
    new.replace(results)
    if failed:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table."""
    results = config.stash[_STATE].results
    for line in smoke_report.table(results) if results else ():
        terminalreporter.write_line(line)
