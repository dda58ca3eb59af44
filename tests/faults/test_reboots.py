"""A host that goes down while Compose replaces a container: it serves again, and nobody typed anything."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench.releases import ROOT, Bed, bed_of, version

from faults.__main__ import BACK_SECONDS, Run, reboot, write

pytestmark = [pytest.mark.host, pytest.mark.slow]

SERVICES = ["db running", "nginx running", "web running", "worker running"]
LIMITS = {
    "web": {"memory": "768m", "cpus": 2.0, "pids": 256},
    "process": {"memory": "512m", "cpus": 1.0, "pids": 128},
    "db": {"memory": "900m", "cpus": 2.0, "pids": 256},
    "redis": {"memory": "192m", "cpus": 0.5, "pids": 64},
    "nginx": {"memory": "128m", "cpus": 1.0, "pids": 64},
}
STOPPED_SECONDS = 120
# On the host, as root: waits until somebody stops a service's container, and has whoever does that come no further.
# Docker then takes it for stopped by hand, and nothing has been started in its place.
HOLD = """
label=label=com.docker.compose
read -r _ < <(docker events --filter $label.project={project} --filter $label.service={service} --filter event=kill)
kill -STOP $(pgrep -f 'engine[.]pyz|docker-[c]ompose')
"""


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """A host that serves a first release, with a worker."""
    with bed_of(tmp_path_factory.mktemp("reboots") / "checkout") as bed:
        write(bed, "first")
        for target in ("secrets", "provision", "deploy"):
            bed.make(target)
        yield bed


def gone_down(bed: Bed, service: str, more: str = "") -> None:
    """Deploy, and have the host go down as soon as a service's old container was told to end."""
    script = HOLD.format(project=bed.project, service=service)
    words = ["docker", "exec", bed.host.name, "bash", "-euc", script]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as holding:
        run = Run(bed, more)
        try:
            assert holding.wait(STOPPED_SECONDS) == 0, run.said()
            _until(lambda: _containers(bed).count(f"{service} running") == 0)
            before = _containers(bed)
            reboot(bed, run)
        finally:
            holding.kill()
            run.send(signal.SIGKILL, run.ours())
    assert f"{service} exited" in before or f"{service} created" in before


def demand_back(bed: Bed, text: str) -> None:
    """Wait until all of a version serves; nothing is typed."""
    try:
        _until(lambda: version(bed) == text and _containers(bed) == SERVICES and not _under_way(bed), BACK_SECONDS)
    except AssertionError:
        told = bed.root(f"journalctl --no-pager -u {bed.project}-recover; tail -n 40 $(ls -t {ROOT}/records/*.log)")
        pytest.fail(f"{version(bed)!r} serves; {_containers(bed)}\n{told}")


def test_a_worker_that_was_to_be_replaced_works_again(bed: Bed) -> None:
    write(bed, "second")
    gone_down(bed, "worker")
    demand_back(bed, "second")
    bed.make("deploy")
    demand_back(bed, "second")


def test_a_database_that_was_to_be_replaced_serves_again(bed: Bed, tmp_path: Path) -> None:
    limits = tmp_path / "limits.json"
    limits.write_text(json.dumps({"release_bundle_limits": LIMITS}))
    more = f"ALLOW_RESTART=db ARGS='-e @{limits}'"
    serves = version(bed)
    write(bed, "third")
    gone_down(bed, "db", more)
    # It had not been switched to.
    demand_back(bed, serves)
    bed.make("deploy", more)
    demand_back(bed, "third")


def test_the_unit_goes_with_the_stack(bed: Bed) -> None:
    unit = f"/etc/systemd/system/{bed.project}-recover.service"
    assert f'ExecStart="{ROOT}/docker-manage.sh" prod recover' in bed.root(f"cat {unit}")
    # With nothing under way it has nothing to do.
    assert bed.root(f"cd {ROOT}; ./docker-manage.sh prod recover").strip() == "Nothing is under way."
    bed.root(f"cd {ROOT}; ./docker-manage.sh prod destroy --confirm prod")
    assert bed.root(f"find /etc/systemd/system -name '{bed.project}-*'") == ""


def _containers(bed: Bed) -> list[str]:
    """Service and state of each of the project's containers; nothing while the host or its engine is away."""
    script = (
        f"docker ps --all --filter label=com.docker.compose.project={bed.project} "
        "--format '{{.Label \"com.docker.compose.service\"}} {{.State}}'"
    )
    return sorted(_on_host(bed, script).splitlines())


def _under_way(bed: Bed) -> bool:
    return _on_host(bed, f"ls {ROOT}/records").count("pending.json") > 0


def _on_host(bed: Bed, script: str) -> str:
    words = ["docker", "exec", bed.host.name, "sh", "-c", script]
    return subprocess.run(words, capture_output=True, text=True, timeout=30, check=False).stdout


def _until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:.0f} s"
        time.sleep(0.5)
