"""The kill matrix: a deploy is ended at the start and in the middle of every step, and the next one must find its way.

`python -m faults [--slice N/M]`: a run that was ended goes on where it stood; results in build/faults/results.json, and
as the table of docs/FAULTS.md with --write.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.figures import UnfitError
from bench.releases import NAME, ROOT, Bed, bed_of
from kit_engine import rollout
from support.checkout import environment
from support.host_releases import MIGRATE, WORKER
from support.kit import ROOT as KIT
from support.traffic import Traffic, summary
from testbed.errors import TestbedError
from testbed.project import DOMAIN

from faults import written_between

RESULTS = KIT / "build/faults/results.json"
BEGIN, END = "<!-- kill matrix: make test-faults -->\n", "<!-- end of the kill matrix -->\n"
RATE = 20.0
# The control node's own: it begins when the engine's last one ends, and the release's end follows it.
GATE = "smoke gate"
STEPS = (*rollout.STEPS, GATE)
MOMENTS = ("start", "middle")
# The host takes a control node for lost after 15 s of silence (kit_engine.session).
SILENCE_SECONDS = 17.0
STEP_SECONDS, RUN_SECONDS, BACK_SECONDS = 90.0, 300.0, 90.0
# What the gate takes at the bench, where it is no step of the engine's that a record has.
GATE_SECONDS = 0.8
# Does jobs one after the other, of half a second; after SIGTERM it ends the one in hand. A database that is away, as in
# a reboot, costs it the job.
JOBBER = "".join((WORKER, """\
while not ends:
    try:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO kit_jobs (worker) VALUES (%s) RETURNING id", [os.uname().nodename])
            job = cursor.fetchone()
            time.sleep(0.5)
            cursor.execute("UPDATE kit_jobs SET ended = clock_timestamp() WHERE id = %s", job)
    except DatabaseError:
        connection.close()
        time.sleep(0.5)
"""))  # fmt: skip
JOBS = """
    cursor.execute("CREATE TABLE IF NOT EXISTS kit_jobs (id bigserial PRIMARY KEY, worker text, "
                   "began timestamptz NOT NULL DEFAULT clock_timestamp(), ended timestamptz)")
"""
# Counts jobs that were in hand while another worker had one.
AT_ONCE = (
    "SELECT count(*) FROM kit_jobs one JOIN kit_jobs other "
    "ON one.worker < other.worker AND one.began < other.ended AND other.began < one.ended"
)
# Prints a line as soon as a journal that was not there before tells that a step begins, or ends.
WATCH = """
import glob, sys, time
known = set(glob.glob(sys.argv[1] + "/*.journal"))
while True:
    for path in set(glob.glob(sys.argv[1] + "/*.journal")) - known:
        if '"step": "%s", "event": "%s"' % tuple(sys.argv[2:]) in open(path).read():
            print("begun", flush=True)
            sys.exit()
    time.sleep(0.01)
"""


@dataclass(frozen=True)
class Case:
    """One cell of the matrix."""

    step: str
    moment: str
    fault: str

    @property
    def name(self) -> str:
        """As results name it."""
        return f"{self.step} {self.moment} {self.fault}"


@dataclass
class Outcome:
    """What became of it.

    Attributes:
        ok: whether all held.
        said: what did not; empty where all held.
        failed: requests without a 200 while the deploy was ended and the next one ran.
        seconds: of the next deploy, with what it had to make whole.
    """

    ok: bool
    said: str
    failed: int
    seconds: float


class Run:
    """A deploy that is under way, with the processes that belong to it; more settings of make may follow."""

    def __init__(self, bed: Bed, more: str = "") -> None:
        self.mark = f"KIT_FAULT_RUN={random.getrandbits(64):x}"
        command = f"make deploy ENV=prod INVENTORY=hosts.yml MANIFEST={NAME}/deploy.yml {more}"
        name, _, value = self.mark.partition("=")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=bed.kit.path,
            env={**environment(), name: value, "ANSIBLE_SSH_CONTROL_PATH_DIR": str(bed.sockets)},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def said(self) -> str:
        """What it printed."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def ours(self) -> list[int]:
        """Its processes, those in sessions of their own included."""
        found = []
        for folder in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                if folder.name.isdigit() and self.mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def send(self, number: signal.Signals, pids: list[int]) -> None:
        """Send a signal."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def playbook(self) -> list[int]:
        """Its ansible-playbook itself, which is what a person or a pipeline ends."""
        found = []
        for pid in self.ours():
            with suppress(OSError):
                if b"plugins/play.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        # Tasks are its forks: the oldest is the playbook.
        return sorted(found)[:1]


def by_signal(number: signal.Signals) -> Callable[[Bed, Run], None]:
    """End ansible-playbook by a signal."""

    def fault(_bed: Bed, run: Run) -> None:
        run.send(number, run.playbook())

    return fault


def cut(_bed: Bed, run: Run) -> None:
    """Fall silent, as a network does that is cut: connections are open, and nothing comes any more."""
    pids = run.ours()
    run.send(signal.SIGSTOP, pids)
    time.sleep(SILENCE_SECONDS)
    run.send(signal.SIGKILL, pids)


def reboot(bed: Bed, run: Run) -> None:
    """Restart the host without a warning."""
    before, hosts = bed.host.address, bed.kit.path / "hosts.yml"
    subprocess.run(["docker", "restart", "--time", "0", bed.host.name], capture_output=True, timeout=60, check=True)
    run.send(signal.SIGKILL, run.ours())
    # Another container that began meanwhile may have got its address.
    hosts.write_text(hosts.read_text().replace(f"smoke_address: {before}\n", f"smoke_address: {bed.host.address}\n"))


FAULTS: dict[str, Callable[[Bed, Run], None]] = {
    "SIGINT": by_signal(signal.SIGINT),
    "SIGTERM": by_signal(signal.SIGTERM),
    "SIGKILL": by_signal(signal.SIGKILL),
    "network cut": cut,
    "reboot": reboot,
}
CASES = [Case(step, moment, fault) for step in STEPS for moment in MOMENTS for fault in FAULTS]


def write(bed: Bed, text: str) -> None:
    """Commit a version of the bench's project that has a worker besides."""
    worker = {"command": ["python", "-c", JOBBER], "stop_grace_seconds": 30}
    bed.write(text, migrate=MIGRATE + JOBS, manifest={"processes": {"worker": worker}})


def sql(bed: Bed, statement: str) -> str:
    """Ask the project's database."""
    words = f"psql --no-align --tuples-only --username={NAME} --dbname={NAME} --command={shlex.quote(statement)}"
    label = "--filter label=com.docker.compose"
    found = f"docker ps --quiet {label}.project={bed.project} {label}.service=db"
    return bed.root(f"docker exec $({found}) {words}").strip()


def attempt(bed: Bed, case: Case, usual: dict[str, float]) -> Outcome:
    """End a deploy as a case says, let the next one run, and look whether all is as it must be."""
    number = random.getrandbits(32)
    write(bed, f"ended {number}")
    sql(bed, "TRUNCATE kit_jobs")
    traffic = Traffic(bed.host.ports[443], DOMAIN, RATE, "/up", "/add")
    began = time.monotonic()
    with traffic.running():
        run = Run(bed)
        try:
            _wait_for(bed, case.step, run)
            if case.moment == "middle":
                time.sleep(usual.get(case.step, 0.2) / 2)
            FAULTS[case.fault](bed, run)
            run.process.wait(RUN_SECONDS)
        finally:
            run.send(signal.SIGKILL, run.ours())
        if case.fault == "reboot":
            _wait_until_back(bed)
        write(bed, f"next {number}")
        begun = time.monotonic()
        said = bed.make("deploy", "WAIT=60")
        took = time.monotonic() - begun
    told = summary(traffic.requests)
    problems = _left(bed, f"next {number}")
    if case.fault != "reboot" and told.failed:
        problems.append(
            f"{len(told.failed)} requests failed, the first {told.failed[0].sent - began:.1f} s after the start"
        )
    if run.process.returncode == 0 and case.fault != "reboot" and case.step not in STEPS[-2:]:
        problems.append(f"the deploy was not ended:\n{run.said()[-800:]}")
    return Outcome(
        not problems, "; ".join(problems) + (f"\n{said[-1500:]}" if problems else ""), len(told.failed), took
    )


def _wait_for(bed: Bed, step: str, run: Run) -> None:
    event = (STEPS[-2], "end") if step == GATE else (step, "begin")
    words = ["docker", "exec", bed.host.name, "python3", "-c", WATCH, f"{ROOT}/records", *event]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as watching:
        assert watching.stdout
        end = time.monotonic() + STEP_SECONDS
        try:
            # It prints one word, or nothing at all.
            while not select.select([watching.stdout.fileno()], [], [], 0.5)[0]:
                if run.process.poll() is not None or time.monotonic() > end:
                    raise UnfitError(f"step {step} never began:\n{run.said()[-1500:]}")
        finally:
            watching.kill()


def _wait_until_back(bed: Bed) -> None:
    """The site must be there again by itself, before anybody deploys."""
    end = time.monotonic() + BACK_SECONDS
    words = ["curl", "-fsSko", "/dev/null", "--max-time", "5", "--resolve", f"{DOMAIN}:{bed.host.ports[443]}:127.0.0.1"]
    while subprocess.run(
        [*words, f"https://{DOMAIN}:{bed.host.ports[443]}/up"], capture_output=True, check=False
    ).returncode:
        if time.monotonic() > end:
            raise UnfitError(f"the site is not back {BACK_SECONDS:.0f} s after the reboot")
        time.sleep(0.5)


def _left(bed: Bed, version: str) -> list[str]:
    """Name what is not as a good release leaves it."""
    words = ["curl", "-fsSk", "--max-time", "5", "--resolve", f"{DOMAIN}:{bed.host.ports[443]}:127.0.0.1"]
    serves = subprocess.run(
        [*words, f"https://{DOMAIN}:{bed.host.ports[443]}/version"], capture_output=True, text=True, check=False
    ).stdout
    told = bed.root(
        f"docker ps --all --filter label=com.docker.compose.project={bed.project} "
        "--format '{{.Label \"com.docker.compose.service\"}} {{.State}}' | sort; echo --\n"
        f"find {ROOT}/records -name pending.json; echo --\n"
        f"cat $(readlink -f {ROOT}/current | sed 's|releases|records|').json\n"
    )
    containers, pending, record = told.split("--\n")
    problems = []
    if serves != version:
        problems.append(f"{serves!r} serves, not {version!r}")
    if containers.splitlines() != [f"{name} running" for name in ("db", "nginx", "web", "worker")]:
        problems.append(f"containers: {containers.split()}")
    if (at_once := sql(bed, AT_ONCE)) != "0":
        problems.append(f"two workers had a job at once, {at_once} times")
    if pending:
        problems.append("something is still under way")
    if json.loads(record)["state"] != "good":
        problems.append("the release that serves is not good")
    return problems


def usual_seconds(bed: Bed) -> dict[str, float]:
    """Seconds of each step of a deploy that nobody ends."""
    write(bed, "usual")
    bed.make("deploy")
    told = bed.root(f"cat $(readlink -f {ROOT}/current | sed 's|releases|records|').json")
    seconds = {str(name): float(value) for name, value in json.loads(told)["seconds"].items()}
    return {**seconds, GATE: GATE_SECONDS}


def table(results: dict[str, dict[str, object]]) -> str:
    """Write the matrix for docs/FAULTS.md."""
    faults = list(FAULTS)
    lines = [f"| step | moment | {' | '.join(faults)} |", f"|---|---|{'---|' * len(faults)}"]
    for step in STEPS:
        for moment in MOMENTS:
            cells = [_cell(results.get(Case(step, moment, fault).name)) for fault in faults]
            lines.append(f"| {step} | {moment} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(found: dict[str, object] | None) -> str:
    if found is None:
        return "not run"
    lost = f", {found['failed']} failed" if found["failed"] else ""
    return (f"recovered in {found['seconds']:.0f} s" if found["ok"] else "NOT recovered") + lost


@contextmanager
def _bed() -> Iterator[Bed]:
    scratch = RESULTS.parent / "checkout"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.parent.mkdir(parents=True, exist_ok=True)
    with bed_of(scratch) as bed:
        write(bed, "first")
        for target in ("secrets", "provision", "deploy"):
            bed.make(target)
        yield bed


def main() -> int:
    """Go through the cases that have no good result yet.

    Returns:
        0 where all that were asked for are recovered from.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--slice", default="1/1", help="N/M: every M-th case, from the N-th on")
    parser.add_argument("--anew", action="store_true", help="forget earlier results")
    parser.add_argument("--write", action="store_true", help="write the table into docs/FAULTS.md")
    given = parser.parse_args()
    # A host of its own is taken down, however this ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    first, _, each = given.slice.partition("/")
    known: dict[str, dict[str, object]] = {}
    if RESULTS.is_file() and not given.anew:
        known = json.loads(RESULTS.read_text(encoding="utf-8"))
    wanted = CASES[int(first) - 1 :: int(each)]
    todo = [case for case in wanted if not known.get(case.name, {}).get("ok")]
    try:
        if todo:
            with _bed() as bed:
                usual = usual_seconds(bed)
                for number, case in enumerate(todo, 1):
                    try:
                        outcome = attempt(bed, case, usual)
                    except (UnfitError, AssertionError) as error:
                        outcome = Outcome(False, str(error)[-2000:], 0, 0.0)
                    known[case.name] = asdict(outcome)
                    RESULTS.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
                    word = "recovered" if outcome.ok else f"NOT recovered: {outcome.said}"
                    print(f"[{number}/{len(todo)}] {case.name}: {word} ({outcome.seconds:.0f} s)", flush=True)
    except (TestbedError, AssertionError) as error:
        print(f"test-faults: {error}", file=sys.stderr)
        return 1
    if given.write:
        written_between(BEGIN, END, table(known))
    return 0 if all(known.get(case.name, {}).get("ok") for case in wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
