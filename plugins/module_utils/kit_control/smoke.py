"""The smoke checks after a release: how each host is reached, and pytest over tests/smoke."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit_control import smoke_report
from kit_control.errors import KitError

if TYPE_CHECKING:
    # The checks import this too: Ansible alone would be a quarter of the gate's time.
    from kit_control.action import KitAction
    from kit_control.manifest import Manifest

CHECKS = Path("tests/smoke")
# Of the check that was begun last: the results come at the end, and a run that hangs never gets there.
BEGUN = "smoke-begun"
PLAN, RESULTS, JUNIT = "smoke-plan.json", "smoke.json", "smoke.xml"
SCHEMA = 1
# What a release's gate asks, in its stack.json; the engine does not read it.
PROMISED = "smoke"
_UNUSED = ("cacheprovider", "doctest", "legacypath", "logging", "pastebin", "unittest")


def connection_of(action: KitAction) -> dict[str, Any]:
    """Describe how the task's host is reached, as Ansible itself would reach it.

    Args:
        action: the action plugin that asks; its connection is not used, only read.

    Returns:
        ``transport`` (``local`` or ``ssh``), ``address`` and ``arguments`` (words for ssh; never a secret).

    Raises:
        KitError: by a connection that the checks cannot take, or with a password for sudo.
    """
    connection, host = action._connection, action.host
    context = action._play_context
    if context.become and context.become_pass:
        raise KitError(
            "sudo",
            f"The smoke checks become root on {host} without a password, and one was given.",
            "allow sudo without a password for the login user (make provision does)",
        )
    if not action.is_remote:
        return {"transport": "local", "address": "", "arguments": []}
    if connection.transport != "ssh":
        raise KitError(
            "inventory",
            f"Host {host} is reached by connection {connection.transport}; the smoke checks know ssh and local.",
            "ansible_connection: ssh    (in the inventory)",
        )
    if connection.get_option("password"):
        raise KitError(
            "inventory",
            f"Host {host} is reached with a password; the smoke checks sign in by key.",
            f"ssh-copy-id {action.address}    (brings your key there)",
        )
    # Port, user, key, host key file and the control socket that is open already: everything stands in these words.
    words = [word.decode() for word in connection._build_command("ssh", "ssh", action.address)]
    arguments = [word for word in words[1:-1] if not re.fullmatch(r"-v+", word)]
    return {"transport": "ssh", "address": action.address, "arguments": arguments}


def expectations(project: Manifest) -> dict[str, Any]:
    """Pick what the manifest promises of a running site.

    Args:
        project: the manifest.
    """
    supplied = {variable.get("from") for variable in project.data["variables"].values()}
    return {
        "login": project.data["login"],
        "smoke": project.data["smoke"],
        "static": project.data["static"]["url"],
        "media": project.data["media"]["url"] if "media_root" in supplied else "",
        "names_release": "release" in supplied,
    }


def promised(folder: Path, project: Manifest) -> tuple[dict[str, Any], str]:
    """Tell what is expected of the release whose files lie in a folder.

    Args:
        folder: where it was rendered, or a rollback laid what the host has of it.
        project: the manifest of today.

    Returns:
        What :func:`expectations` gave when it was rendered, and nothing. Of a release that an older kit rendered:
        today's without its requests, which may ask for pages that came later, and a warning that says so.
    """
    told = json.loads((folder / "stack.json").read_text(encoding="utf-8")).get(PROMISED)
    if told:
        return told, ""
    return {**expectations(project), "smoke": []}, (
        "An older kit rendered this release without its smoke requests: the manifest's of today are not made. The next "
        "deploy notes them with the release."
    )


def write_plan(folder: Path, hosts: Sequence[Mapping[str, Any]]) -> Path:
    """Write down what tests/smoke needs, so that it also runs by plain pytest.

    Args:
        folder: ``build/<env>``.
        hosts: one entry a host; see tests/smoke/target.py.

    Returns:
        The file.
    """
    path = folder / PLAN
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps({"schema": SCHEMA, "hosts": list(hosts)}, indent=2) + "\n", encoding="utf-8")
    return path


@dataclass
class _Started:
    """Checks that wait for a byte on a pipe, loaded, and end when nobody can write to it any more, whatever they do."""

    plan: Path
    gate: bool
    program: subprocess.Popen[bytes]
    wanted: int


class _Ahead:
    """The checks that a run has begun before they are wanted; tasks are forks of it."""

    started: _Started | None = None


def begin_ahead(root: Path, folder: Path) -> None:
    """Start the gate of a release that is under way: pytest takes as long to load as to check.

    Args:
        root: the kit's folder.
        folder: ``build/<env>``.
    """
    # What hinders it hinders the gate too, which says so.
    with suppress(OSError):
        _Ahead.started = _Ahead.started or _begin(root, folder / PLAN, gate=True)


def run(root: Path, plan: Path, *, gate: bool, limit: float, env: str) -> dict[str, Any]:
    """Run the checks.

    Args:
        root: the kit's folder.
        plan: of :func:`write_plan`; results go beside it.
        gate: only those that a deploy waits for.
        limit: seconds after which they are ended.
        env: name of the environment, for the advice.

    Returns:
        The results, as they stand in smoke.json.

    Raises:
        KitError: they did not come to a verdict.
    """
    results = plan.with_name(RESULTS)
    results.unlink(missing_ok=True)
    plan.with_name(BEGUN).unlink(missing_ok=True)
    again = f"make smoke ENV={env}"
    begun = time.monotonic()
    started = _wanted(root, plan, gate=gate)
    program = started.program
    try:
        said, _ = program.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        _kill(program)
        begun_last = plan.with_name(BEGUN)
        where = f" The last to begin: {begun_last.read_text(encoding='utf-8')}" if begun_last.is_file() else ""
        raise KitError("smoke", f"The smoke checks were given {limit:.0f} s and did not end.{where}", again) from None
    except BaseException:
        _kill(program)
        raise
    finally:
        if started is not _Ahead.started:
            os.close(started.wanted)
    if not results.is_file():
        last = "\n".join(f"    {line}" for line in said.decode("utf-8", "replace").splitlines()[-15:])
        last = last or "    (they said nothing: was pytest killed, for want of memory?)"
        raise KitError("smoke", f"The smoke checks could not be run:\n{last}", again)
    told: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    # With pytest's own start, which a deploy waits for too.
    return {**told, "seconds": round(time.monotonic() - begun, 2)}


def _kill(program: subprocess.Popen[bytes]) -> None:
    # Not by its own method, which knows no program that another process has started.
    with suppress(ProcessLookupError):
        os.kill(program.pid, signal.SIGKILL)


def _wanted(root: Path, plan: Path, *, gate: bool) -> _Started:
    """Have checks begin: those that wait already, else new ones; they go on for as long as we are there."""
    ahead = _Ahead.started
    if ahead and (ahead.plan, ahead.gate) == (plan, gate):
        # It may have served a batch of hosts before, or somebody ended it.
        with suppress(BrokenPipeError):
            os.write(ahead.wanted, b"\n")
            return ahead
    started = _begin(root, plan, gate=gate)
    with suppress(BrokenPipeError):
        os.write(started.wanted, b"\n")
    return started


def _begin(root: Path, plan: Path, *, gate: bool) -> _Started:
    waits, wanted = os.pipe()
    words = [sys.executable, "-m", "pytest", str(CHECKS), f"--smoke-plan={plan}", f"--smoke-wait={waits}"]
    words += ["--tb=no", "-q", "-rN", "--no-header"]
    # Other plugins, of the environment and of pytest itself, cost half of the gate's time, and none is used.
    words += [word for name in _UNUSED for word in ("-p", f"no:{name}")] + (["-m", "gate"] if gate else [])
    try:
        program = subprocess.Popen(  # noqa: S603 - a list of our own words
            words,
            cwd=root,
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[waits],
        )
    finally:
        os.close(waits)
    return _Started(plan, gate, program, wanted)


def last_was_good(folder: Path) -> bool:
    """Tell whether nothing failed when the checks ran last, if they ever did."""
    try:
        return bool(json.loads((folder / RESULTS).read_text(encoding="utf-8"))["ok"])
    except (OSError, ValueError, KeyError, TypeError):
        # A plan without results: they were cut off.
        return not (folder / PLAN).exists()


def failure(results: Mapping[str, Any], again: str) -> KitError:
    """Say which checks failed.

    Args:
        results: of :func:`run`.
        again: command that shows more.
    """
    lines = [f"  - {line}" for line in smoke_report.failed(results)]
    what = "The release is up, but the smoke gate failed" if results["gate"] else "Smoke checks failed"
    return KitError("smoke", f"{what}:\n" + "\n".join(lines), again)
