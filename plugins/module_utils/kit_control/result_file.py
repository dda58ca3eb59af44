"""What a playbook leaves for pipelines: build/<env>/result.json, and plan.json after a plan."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit_engine.report import columns

RESULT, PLAN = "result.json", "plan.json"
SCHEMA = 1
GOOD = "ok"


@dataclass
class HostResult:
    """How it went on one host."""

    ok: bool = True
    code: str = GOOD
    task: str = ""
    message: str = ""
    release: str = ""
    changed: bool = False
    plan: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    remedy: str = ""


class Outcome:
    """How a playbook went, gathered while it runs.

    Args:
        playbook: its name, such as ``deploy``.
        env: name of the environment.
        folder: where the files go.
    """

    def __init__(self, playbook: str, env: str, folder: Path) -> None:
        self.playbook, self.env, self.folder = playbook, env, folder
        self.hosts: dict[str, HostResult] = {}
        self._code = GOOD
        self._begun = time.time()
        self._steps: list[tuple[str, float]] = []

    def begin(self) -> None:
        """Take an earlier run's files away: one that is ended half-way leaves none."""
        for name in (RESULT, PLAN) if self.playbook == "plan" else (RESULT,):
            (self.folder / name).unlink(missing_ok=True)

    def step(self, name: str) -> None:
        """Note that a task begins; the one before has ended."""
        self._steps.append((name, time.time()))

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Seconds of each task, in their order; the last one ends now."""
        ends = [*(begun for _, begun in self._steps[1:]), time.time()]
        return [
            {"step": name, "seconds": round(end - begun, 2)}
            for (name, begun), end in zip(self._steps, ends, strict=False)
        ]

    def done(self, host: str, told: Mapping[str, Any]) -> None:
        """Take what a task told that went well."""
        entry = self.hosts.setdefault(host, HostResult())
        if isinstance(told.get("release"), str):
            entry.release = told["release"]
        if isinstance(told.get("plan"), dict):
            entry.plan = told["plan"]
        if isinstance(told.get("record"), dict):
            entry.record = told["record"]
        if isinstance(told.get("seconds"), dict):
            entry.seconds += sum(told["seconds"].values())

    def failed(self, host: str, task: str, told: Mapping[str, Any], *, unreachable: bool = False) -> None:
        """Take what a task told that failed; the first failure of all is the run's.

        Args:
            host: where.
            task: its name.
            told: its result; ``code`` is the kit's own.
            unreachable: whether the host could not even be reached.
        """
        code = str(told.get("code") or ("unreachable" if unreachable else "timeout" if "timedout" in told else "task"))
        text = str(told.get("msg") or "")
        known = self.hosts.get(host, HostResult())
        remedy = next((line[6:] for line in text.splitlines() if line.startswith("Next: ")), "")
        self.hosts[host] = HostResult(
            False, code, task, _first(text), changed=known.changed, record=known.record, seconds=known.seconds,
            remedy=remedy,
        )  # fmt: skip
        self._code = code if self._code == GOOD else self._code

    def rescued(self, host: str) -> None:
        """Take a failure back that the playbook itself dealt with."""
        # Later tasks of it may have told more; only the failure is no more.
        entry = self.hosts[host]
        entry.ok, entry.code, entry.task, entry.message = True, GOOD, "", ""
        self._code = next((entry.code for entry in self.hosts.values() if not entry.ok), GOOD)

    @property
    def result(self) -> dict[str, Any]:
        """What result.json holds."""
        hosts = {}
        for name, entry in self.hosts.items():
            told = {key: getattr(entry, key) for key in ("ok", "code", "task", "message", "release", "changed")}
            hosts[name] = told
        return {
            "schema": SCHEMA,
            "playbook": self.playbook,
            "env": self.env,
            "ok": self._code == GOOD,
            "code": self._code,
            "changed": any(entry.changed for entry in self.hosts.values()),
            "started": _utc(self._begun),
            "seconds": round(time.time() - self._begun, 1),
            "steps": self.steps,
            "hosts": hosts,
        }

    @property
    def plan(self) -> dict[str, Any]:
        """What plan.json holds; nothing where no host was planned, or one failed."""
        plans = {name: entry.plan for name, entry in self.hosts.items() if entry.plan}
        if not plans or self._code != GOOD:
            return {}
        return {
            "schema": SCHEMA,
            "env": self.env,
            "changes": any(plan["changes"] for plan in plans.values()),
            "verdict": summary({name: str(plan["verdict"]) for name, plan in plans.items()}),
            "hosts": {name: {key: plan[key] for key in plan if key != "lines"} for name, plan in plans.items()},
        }

    def plan_lines(self) -> list[str]:
        """Write the plan for people: a block for each host, and the verdict as the last line."""
        plan = self.plan
        if not plan:
            return []
        lines = []
        for name in plan["hosts"]:
            lines += [f"{name}: {line}" if number == 0 else line for number, line in enumerate(self._block(name))]
            lines.append("")
        return [*lines, str(plan["verdict"])]

    def closing_lines(self) -> list[str]:
        """Sum a deploy or rollback up for people: a line for each host, and last the command to type next."""
        if self.playbook not in ("deploy", "rollback") or not self.hosts:
            return []
        rows = [("host", "release", "outcome", "seconds", "migrations", "backup")]
        for host, entry in self.hosts.items():
            record, backup = entry.record, entry.record.get("backup") or {}
            outcome = entry.code if not entry.ok else "serves" if entry.changed else "up to date"
            saved = f"{backup['id']}, {backup['level']}" if backup else "-"
            ours = self.playbook == "deploy"
            rows.append(
                (host, str(record.get("id") or entry.release or "-"), outcome, f"{entry.seconds:.1f}",
                 str(len(record.get("migrations", ()))) if ours else "-", saved if ours else "-")
            )  # fmt: skip
        failed = next((entry for entry in self.hosts.values() if not entry.ok), None)
        env = "" if self.env == "local" else f" ENV={self.env}"
        remedy = failed.remedy if failed else f"make {'status' if env else 'ps'}{env}"
        return [*columns(rows), *([f"Next: {remedy}"] if remedy else [])]

    def write(self) -> None:
        """Write the files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _replace(self.folder / RESULT, self.result)
        if self.plan:
            _replace(self.folder / PLAN, self.plan)

    def _block(self, host: str) -> list[str]:
        # Without its verdict, which comes last for all hosts.
        lines: list[str] = self.hosts[host].plan["lines"]
        return lines[:-1]


def summary(verdicts: Mapping[str, str]) -> str:
    """Say the verdicts of several hosts in one line.

    Args:
        verdicts: by host.
    """
    hosts: dict[str, list[str]] = {}
    for host, verdict in verdicts.items():
        hosts.setdefault(verdict, []).append(host)
    if len(hosts) == 1:
        return next(iter(hosts))
    return "; ".join(f"{', '.join(names)}: {verdict}" for verdict, names in hosts.items())


def _first(text: str) -> str:
    """The first thing that a message says: a list's first entry belongs to its heading."""
    first, _, rest = text.strip().partition("\n")
    return f"{first} {rest.partition(chr(10))[0].strip(' -')}" if first.endswith(":") and rest else first


def _replace(path: Path, content: Mapping[str, Any]) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(path)


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
