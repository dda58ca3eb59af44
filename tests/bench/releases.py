"""Releases to a real host under a steady load: what fails, how long the gaps are, how long each takes.

`python -m bench.releases`: measures, prints a table, writes build/bench/releases.json and each request to a JSON line;
the exit status is not 0 where a promise is not kept.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from kit_control.services import project_name
from support import checkout, registry
from support.certificates import authorities, issue
from support.checkout import Checkout
from support.host_releases import BROKEN, MIGRATE, given_up_after, write_project
from support.traffic import OK, Summary, Traffic, read, summary
from testbed.errors import TestbedError
from testbed.hosts import Host, borrowed
from testbed.project import DOMAIN, inventory_variables

from bench.figures import Bar, Timed, UnfitError, floor_steps, middle

RESULTS = Path(__file__).resolve().parents[2] / "build/bench"
NAME = "traffic"
ROOT = f"/srv/{NAME}"
RATE = 160.0
DEPLOYS, PAIRS = 10, 3
# Begun before each switch: it is in hand while the release takes over.
SLOW = "/slow/20"
NO_COMMANDS: dict[str, object] = {"release": {"commands": []}}
LONGEST_GAP, ROLLBACK_SECONDS, DEPLOY_SECONDS, TIMES_FLOOR, TIMES_PLAIN_FLOOR = 0.25, 5.0, 12.0, 1.5, 1.8
GIVEN_UP, ENDED = 10.0, 5.0
FLOOR = Path(__file__).with_name("floor_release")
FLOOR_SECONDS = 180


@dataclass
class Bed:
    """A host that serves the project, and the copy of the kit that releases to it.

    Attributes:
        told: by scenario, what became of the requests.
        seconds: by scenario, how long each release took.
    """

    kit: Checkout
    host: Host
    sockets: Path
    told: dict[str, Summary] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def project(self) -> str:
        """Name of the Compose project."""
        return project_name(NAME, "prod")

    def write(
        self, text: str, *, settings: str = "", migrate: str = MIGRATE, manifest: Mapping[str, Any] | None = None
    ) -> None:
        """Commit a version of the project, which differs as of write_project."""
        write_project(self.kit.path / NAME, NAME, text, settings=settings, migrate=migrate, manifest=manifest)
        self.kit.commit(text)

    def make(self, target: str, more: str = "", *, check: bool = True) -> str:
        """Type make for the host."""
        command = f"make {target} ENV=prod INVENTORY=hosts.yml MANIFEST={NAME}/deploy.yml {more}"
        return self.kit.type(command, self.variables, check=check)

    @property
    def variables(self) -> dict[str, str]:
        """Of whoever types make, the same each time."""
        return {"ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.sockets), "ANSIBLE_VERBOSITY": "0"}

    def root(self, script: str) -> str:
        """Run a script on the host as root."""
        return self.host.run("sudo bash -eu -s", stdin=script.encode(), timeout=120).stdout

    def timed(self, scenario: str, target: str, more: str = "", *, check: bool = True) -> str:
        """Type make, and take the time; gives what was printed."""
        begun = time.monotonic()
        said = self.make(target, more, check=check)
        took = time.monotonic() - begun
        self.seconds.setdefault(scenario, []).append(took)
        print(f"{scenario}: {target} {took:.1f} s", flush=True)
        return said

    @contextmanager
    def load(self, scenario: str) -> Iterator[Traffic]:
        """Send requests at RATE while something happens; each is written down, and what is told is read from there."""
        log = RESULTS / f"releases-{scenario.replace(' ', '-')}.jsonl"
        with Traffic(self.host.ports[443], DOMAIN, RATE, "/up", "/add").running(log) as traffic:
            time.sleep(1)
            yield traffic
            time.sleep(1)
        self.told[scenario] = told = summary(read(log))
        print(f"{scenario}: {told.count} requests, {len(told.failed)} failed", flush=True)

    def given_up_after(self) -> float:
        """Seconds between the first step that waits for a new container and its failure, by the newest journal."""
        return given_up_after(self.root(f"cat $(ls -t {ROOT}/records/*.journal | head -1)"))


def measure(bed: Bed) -> list[Bar]:
    """Go through all scenarios, and judge them."""
    bed.write("zero")
    for target in ("secrets", "provision", "deploy"):
        bed.make(target)
    bars = [*_floors(bed), *_deploys(bed), *_broken(bed), *_edge(bed), *_rollback(bed), *_plain(bed)]
    for scenario, told in bed.told.items():
        if scenario != "plain compose up":
            bars.append(Bar(f"{scenario}: failed requests of {told.count}", len(told.failed), 0))
    return bars


def _deploys(bed: Bed) -> list[Bar]:
    scenario = f"{DEPLOYS} deploys"
    with bed.load(scenario) as traffic:
        for number in range(DEPLOYS):
            bed.write(f"version {number}")
            traffic.slow(SLOW)
            bed.timed(scenario, "deploy")
    return [Bar(f"{scenario}: longest gap between two answers, s", bed.told[scenario].longest_gap, LONGEST_GAP)]


def _broken(bed: Bed) -> list[Bar]:
    bars, serves = [], version(bed)
    for what, (differs, _code, words) in BROKEN.items():
        with bed.load(what):
            bed.write(f"broken: {what}", **differs)  # type: ignore[arg-type]  # texts all
            more = "ARGS='-e release_bundle_ready_timeout_seconds=20'" if what == "hangs for ever" else ""
            _demand_refused(bed, bed.timed(what, "deploy", more, check=False), words, serves)
        limit = {"answers with errors": GIVEN_UP, "ends when it serves": ENDED}.get(what)
        if limit:
            bars.append(Bar(f"{what}: given up after, s", bed.given_up_after(), limit))
    with bed.load("smoke gate fails"):
        smoke = [{"name": "absent", "path": "/absent"}]
        path = write_project(bed.kit.path / NAME, NAME, "no such page", manifest={"smoke": smoke})
        bed.kit.commit(f"{path.name} asks for a page that is not there")
        said = bed.timed("smoke gate fails", "deploy", check=False)
        _demand_refused(bed, said, "request: absent", serves)
    bed.write("good again")
    bed.timed("after them", "deploy")
    return bars


def _demand_refused(bed: Bed, said: str, words: str, serves: str) -> None:
    """Refuse what a deploy that failed did not tell, or did not leave as it was; that it failed was seen to."""
    if words not in said:
        raise UnfitError(f"`{words}` is not told:\n{said[-2000:]}")
    found = version(bed)
    if found != serves:
        raise UnfitError(f"{found!r} serves, not {serves!r}")


def _edge(bed: Bed) -> list[Bar]:
    for scenario, more in (
        ("nginx changes", "-e release_bundle_rate_limit_burst=11"),
        ("3 replicas", "-e release_bundle_web_replicas=3"),
        ("certificate changes", _given_certificate(bed)),
    ):
        with bed.load(scenario):
            bed.write(scenario)
            bed.timed(scenario, "deploy", f"ARGS='{more}'")
    return []


def _given_certificate(bed: Bed) -> str:
    folder = bed.kit.path / "build/certificates"
    folder.mkdir()
    issued = issue([DOMAIN], authorities())
    for name, content in (("chain", issued.chain), ("key", issued.key_pem), ("root", issued.root)):
        (folder / f"{name}.pem").write_text(content)
    inputs = {"tls_mode": "provided", "tls_certificate_file": folder / "chain.pem", "tls_key_file": folder / "key.pem",
              "tls_ca_file": folder / "root.pem", "smoke_trust_file": folder / "root.pem"}  # fmt: skip
    return " ".join(f"-e {name}={value}" for name, value in inputs.items())


def _rollback(bed: Bed) -> list[Bar]:
    took = [_rolled_back(bed, f"rollback {number + 1}") for number in range(PAIRS)]
    print(f"rollback: {', '.join(f'{one:.1f}' for one in took)} s", flush=True)
    return [Bar("rollback: from the command to the old release serving, median, s", median(took), ROLLBACK_SECONDS)]


def _rolled_back(bed: Bed, scenario: str) -> float:
    # Of the scenarios before, other nginx files and another certificate lie between the releases.
    bed.write(f"{scenario}: to go back to")
    bed.make("deploy")
    earlier = version(bed)
    bed.write(f"{scenario}: to be left")
    bed.make("deploy")
    with bed.load(scenario) as traffic:
        traffic.slow(SLOW)
        time.sleep(1)
        begun = time.monotonic()
        words = ["bash", "-c", f"make rollback ENV=prod INVENTORY=hosts.yml MANIFEST={NAME}/deploy.yml"]
        environment = {**checkout.environment(), **bed.variables}
        with subprocess.Popen(words, cwd=bed.kit.path, env=environment, stdout=subprocess.DEVNULL) as running:
            # A program for each look would take a fifth of a processor.
            while traffic.text("/version") != earlier and time.monotonic() - begun < FLOOR_SECONDS:
                time.sleep(0.05)
            served = time.monotonic() - begun
            if running.wait(FLOOR_SECONDS):
                raise UnfitError("make rollback failed")
    return served


def _floors(bed: Bed) -> list[Bar]:
    """A changed line on an idle host, in turn with the same steps by hand; also without backup, migration, smoke."""
    runs: dict[str, list[Timed]] = {"full": [], "plain": []}
    without = "ARGS='-e release_backup_first=false -e smoke_due=false'"
    with (
        tempfile.TemporaryDirectory() as storage,
        registry.running(Path(storage)) as address,
        registry.reached_from(bed.host, address),
    ):
        # The first round warms both: a registry that is new gets all layers then.
        for number in range(PAIRS + 1):
            for kind, more in (("full", ""), ("plain", without)):
                runs[kind].append(_floor(bed, address, kind, number))
                if kind == "plain":
                    write_project(bed.kit.path / NAME, NAME, f"plain {number}", manifest=NO_COMMANDS)
                    bed.kit.commit(f"plain {number}")
                else:
                    bed.write(f"idle {number}")
                bed.timed(f"idle {kind}", "deploy", more)
    bars = []
    for kind, limit in (("full", TIMES_FLOOR), ("plain", TIMES_PLAIN_FLOOR)):
        del runs[kind][0], bed.seconds[f"idle {kind}"][0]
        floor, found = middle(runs[kind]).seconds, median(bed.seconds[f"idle {kind}"])
        bed.seconds[f"floor {kind}"] = [run.seconds for run in runs[kind]]
        print(f"floor {kind}: {middle(runs[kind]).steps}", flush=True)
        bars.append(Bar(f"a changed line, idle, {kind}: times the floor ({floor:.1f} s)", found / floor, limit))
    return [*bars, Bar("a changed line, idle, full: s", median(bed.seconds["idle full"]), DEPLOY_SECONDS)]


def _floor(bed: Bed, address: str, kind: str, number: int) -> Timed:
    image = bed.root(f"sed -n 's/^    image: \\(.*{NAME}.*\\)$/\\1/p' {ROOT}/current/docker-compose.prod.yml | head -1")
    tag = f"{address}/floor:{kind}-{number}"
    with tempfile.TemporaryDirectory() as context:
        write_project(Path(context) / "app", NAME, tag)
        words = [str(FLOOR), str(bed.host.folder / "ssh_config"), bed.host.name, ROOT, bed.project, DOMAIN]
        begun = time.monotonic()
        done = subprocess.run(
            [*words, image.strip().strip('"'), tag, context, kind],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FLOOR_SECONDS,
            check=False,
        )
        took = time.monotonic() - begun
    steps = floor_steps(done.stdout)
    subprocess.run(["docker", "image", "rm", "--force", tag], capture_output=True, check=False)
    if done.returncode or list(steps)[-1:] != ["site"]:
        raise UnfitError(f"{FLOOR.name} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return Timed(took, steps)


def _plain(bed: Bed) -> list[Bar]:
    """What `docker compose up` alone does to the same load: a bench that misses that would miss all."""
    scenario = "plain compose up"
    with bed.load(scenario):
        bed.root(
            f"cd {ROOT}/shared/compose; current=$(readlink -f {ROOT}/current)\n"
            "export KIT_BUNDLE=$current KIT_RELEASE=$(basename $current)\n"
            f"docker compose -p {bed.project} --project-directory . -f $current/docker-compose.prod.yml "
            "up -d --no-deps --force-recreate web"
        )
        time.sleep(5)
    failed = len(bed.told[scenario].failed)
    return [Bar("plain compose up: failed requests, which must be seen", failed, 1, at_most=False)]


def version(bed: Bed) -> str:
    """What answers; empty where nothing does."""
    words = ["curl", "-fsSk", "--max-time", "5", "--resolve", f"{DOMAIN}:{bed.host.ports[443]}:127.0.0.1"]
    url = f"https://{DOMAIN}:{bed.host.ports[443]}/version"
    return subprocess.run([*words, url], capture_output=True, text=True, timeout=20, check=False).stdout


@contextmanager
def bed_of(scratch: Path) -> Iterator[Bed]:
    """Bring up a bare host, and a copy of the kit with the project in it."""
    kit = checkout.copy(scratch)
    manifest = write_project(kit.path / NAME, NAME, "zero")
    with (
        tempfile.TemporaryDirectory(prefix="kit-bench-") as sockets,
        borrowed(publish=(80, 443), variables=inventory_variables(manifest)) as run,
    ):
        shutil.copyfile(run.inventory, kit.path / "hosts.yml")
        (kit.path / ".git/info/exclude").write_text(".venv\nhosts.yml\n")
        yield Bed(kit, run.hosts[0], Path(sockets))


def main() -> int:
    """Measure all.

    Returns:
        0, or 1 where a promise is not kept, or nothing could be measured.
    """
    # A host of its own is taken down, however this ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    scratch = RESULTS / "releases-checkout"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.parent.mkdir(parents=True, exist_ok=True)
    try:
        with bed_of(scratch) as bed:
            bars = measure(bed)
    except (UnfitError, TestbedError, AssertionError) as error:
        print(f"bench-deploy: {error}", file=sys.stderr)
        return 1
    told = {
        "schema": 1,
        "load_average": os.getloadavg()[2],
        "seconds": bed.seconds,
        "requests": {
            name: {"count": one.count, "failed": len(one.failed), "longest_gap": one.longest_gap,
                   "slowest": one.slowest, "median": one.median}
            for name, one in bed.told.items()
        },
        "bars": [{**asdict(bar), "kept": bar.kept} for bar in bars],
    }  # fmt: skip
    (RESULTS / "releases.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    for name, seconds in bed.seconds.items():
        print(f"{name:<40}{' '.join(f'{one:6.1f}' for one in seconds)} s")
    for name, one in bed.told.items():
        late = [request for request in one.requests if request.path == SLOW and request.status == OK]
        print(f"{name:<40}{one.count:6} requests, {len(one.failed)} failed, longest gap {one.longest_gap:.3f} s, "
              f"median {one.median * 1000:.0f} ms, {len(late)} slow ones answered")  # fmt: skip
    for bar in bars:
        print(f"{'kept  ' if bar.kept else 'MISSED'} {bar.text}: {bar.found:.2f} (bar {bar.limit:g})")
    return 0 if all(bar.kept for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
