"""Images come to a host that has none: without a registry, in pieces over SSH, and by one. In the order of the file."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support import registry
from support.engine import base_image
from testbed.hosts import borrowed

from e2e.delivery import Delivery

pytestmark = [pytest.mark.engine, pytest.mark.host, pytest.mark.slow]

USER, PASSWORD = "deployer", "canary-4WqX7registry"
ACCOUNT = f"{USER}:$2b$05$Pji95HdFkDAaks.piBQPcOgH/8w9EDMTuhf9duSf6Znj25EC/8WFq"
PROGRESS = re.compile(r"images: ([0-9.]+) of ([0-9.]+) MB")
# Promised for a one-line change of code, on a machine that does nothing else.
LINE_BYTES, LINE_SECONDS, QUIET_LOAD = 2_000_000, 3.0, 1.0


@pytest.fixture(scope="module")
def delivery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Delivery]:
    """A host with an engine and no image."""
    with borrowed(distro="trixie") as run:
        run.hosts[0].run("sudo apt-get update -qq", timeout=120)
        run.hosts[0].run(
            "sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker.io docker-cli",
            timeout=300,
        )
        made = Delivery.prepare(run, tmp_path_factory.mktemp("delivery"))
        try:
            yield made
        finally:
            made.remove()


def app_on(delivery: Delivery) -> str:
    """The newest app image on the host."""
    return delivery.docker(
        "image", "ls", "--format", "'{{.Repository}}:{{.Tag}}'", f"kit_test_{delivery.run.id}"
    ).split()[0]


def kill_with_children(pid: int) -> None:
    """End a process and all below it at once; Ansible's workers are in sessions of their own."""
    os.kill(pid, signal.SIGSTOP)
    below = [pid]
    for parent in below:
        words = ["pgrep", "--parent", str(parent)]
        below += map(int, subprocess.run(words, capture_output=True, text=True, check=False).stdout.split())
    for one in below:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def test_a_cut_transfer_leaves_pieces_and_no_image(delivery: Delivery) -> None:
    started = delivery.start()
    printed, seen = "", None
    try:
        assert started.stdout is not None
        for line in started.stdout:
            printed += line
            seen = PROGRESS.search(line)
            if seen:
                break
    finally:
        kill_with_children(started.pid)
        started.wait(timeout=30)

    assert seen, printed
    # The call that was under way ends by itself.
    delivery.run.hosts[0].run("while pgrep -f '[e]ngine.pyz' > /dev/null; do sleep 0.2; done")
    assert 0 < float(seen[1]) < float(seen[2])
    assert delivery.docker("image", "ls", "--quiet") == ""
    staged = delivery.run.hosts[0].run(f"sudo find {delivery.root}/incoming -name '*.z' | wc -l").stdout
    assert int(staged) > 0
    assert delivery.run.hosts[0].run(f"ls {delivery.root}/incoming", check=False).returncode != 0, "for root alone"


def test_it_goes_on_where_it_was_cut_and_replaces_a_damaged_layer(delivery: Delivery) -> None:
    host = delivery.run.hosts[0]
    find = f"sudo find {delivery.root}/incoming -name '*.z'"
    staged = sum(int(size) for size in host.run(f"{find} -printf '%s\\n'").stdout.split())
    damaged = host.run(f"{find} -printf '%s %p\\n' | sort -n | tail -n 1").stdout.split()[1]
    host.run(f"echo x | sudo dd of={damaged} bs=1 seek=100 conv=notrunc status=none")

    told, output = delivery.deliver()

    assert "was damaged and is sent again" in output, output
    assert told["changed"] is True
    total = sum(path.stat().st_size for path in delivery.cache.glob("*/*.z"))
    again = sum(path.stat().st_size for path in (delivery.cache / Path(damaged).parent.name).glob("*.z"))
    assert told["sent_bytes"] == total - staged + again
    assert host.run(f"sudo test -e {delivery.root}/incoming/layers", check=False).returncode != 0


def test_the_whole_images_are_there(delivery: Delivery) -> None:
    app = app_on(delivery)
    for ref in (app, base_image("redis")):
        here = subprocess.check_output(["docker", "image", "inspect", "--format", "{{.Id}}", ref], text=True).strip()
        assert delivery.docker("image", "inspect", "--format", "'{{.Id}}'", ref) == here
    script = "'import django; print(django.VERSION[0])'"
    assert int(delivery.docker("run", "--rm", "--network=none", "--entrypoint=python", app, "-c", script)) >= 5
    version = delivery.docker("run", "--rm", "--network=none", "--entrypoint=redis-server", base_image("redis"), "-v")
    assert "Redis server" in version


def test_unchanged_nothing_moves(delivery: Delivery) -> None:
    told, output = delivery.deliver()

    assert (told["changed"], told["sent_bytes"]) == (False, 0)
    assert "changed=0" in output
    assert not PROGRESS.search(output)


def test_a_changed_line_moves_little(delivery: Delivery, record_property: Callable[[str, object], None]) -> None:
    delivery.change_a_line()

    told, _ = delivery.deliver()

    record_property("sent_bytes", told["sent_bytes"])
    record_property("seconds", told["seconds"])
    assert 0 < told["sent_bytes"] < LINE_BYTES
    if os.getloadavg()[0] < QUIET_LOAD:
        assert told["seconds"] < LINE_SECONDS
    assert len(told["delivered"]) == 1
    code = delivery.docker("run", "--rm", "--network=none", "--entrypoint=tail", app_on(delivery), "-n1", "manage.py")
    assert code == (delivery.scratch / "project/manage.py").read_text().splitlines()[-1]


@pytest.fixture(scope="module")
def account(delivery: Delivery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Inputs that name a registry which wants a login."""
    storage = tmp_path_factory.mktemp("registry")
    with registry.running(storage, ACCOUNT) as address, registry.reached_from(delivery.run.hosts[0], address):
        yield {
            "app_image_delivery": "registry",
            "app_image_registry": f"{address}/team",
            "app_image_registry_user": USER,
            "app_image_registry_password": PASSWORD,
        }


def left_behind() -> list[str]:
    """Folders with a registry's credential on this machine."""
    return [str(path) for folder in ("/dev/shm", "/run", "/tmp") for path in Path(folder).glob("kit-registry-*")]  # noqa: S108


class TestRegistry:
    """The control node pushes, the host pulls by digest, and nobody keeps the password."""

    def test_a_wrong_password_is_told_and_changes_nothing(self, delivery: Delivery, account: dict[str, Any]) -> None:
        delivery.change_a_line()
        before = delivery.docker("image", "ls", "--all", "--no-trunc", "--quiet")

        _, output = delivery.deliver(succeeds=False, **{**account, "app_image_registry_password": "wrong"})

        assert f"to user {USER}" in output
        assert "Next: correct app_image_registry_user and app_image_registry_password" in output
        assert delivery.docker("image", "ls", "--all", "--no-trunc", "--quiet") == before
        assert left_behind() == []

    def test_pulled_by_digest_and_no_credential_left(self, delivery: Delivery, account: dict[str, Any]) -> None:
        host = delivery.run.hosts[0]
        # What the host's users see, four times a second.
        watch = "for i in $(seq 240); do ps axww -o args; sleep 0.25; done > /dev/shm/seen"
        with subprocess.Popen([*host.ssh_words, watch], stdin=subprocess.DEVNULL) as watching:
            told, output = delivery.deliver(**account)
            watching.terminate()
        assert host.run("grep -c 'docker.*pull' /dev/shm/seen").stdout.strip() != "0"

        (ref,) = told["delivered"]
        assert re.fullmatch(
            rf"{re.escape(account['app_image_registry'])}/\S+@sha256:[0-9a-f]{{64}}", told["digests"][ref]
        )
        digests = json.loads(delivery.docker("image", "inspect", "--format", "'{{json .RepoDigests}}'", ref))
        assert told["digests"][ref] in digests
        assert delivery.docker("image", "inspect", "--format", "'{{.Id}}'", ref) == told["identities"][ref]
        assert PASSWORD not in output
        word = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        folders = "/root /home /srv /etc /run /tmp /dev/shm /var/tmp /var/log /var/lib/docker/image"
        # Patterns by standard input: as arguments they would stand in the lists and logs that are searched.
        found = host.run(f"sudo grep -rlFs -f - {folders}", stdin=f"{PASSWORD}\n{word}\n".encode(), check=False).stdout
        assert found == ""
        assert (
            host.run("ls -d /dev/shm/kit-registry-* /run/kit-registry-* /tmp/kit-registry-*", check=False).stdout == ""
        )
        assert left_behind() == []
        assert not any(word in path.read_text(errors="replace") for path in Path.home().glob(".docker/config.json"))

    def test_unchanged_nothing_is_pulled(self, delivery: Delivery, account: dict[str, Any]) -> None:
        told, output = delivery.deliver(**account)

        assert told["changed"] is False
        assert "changed=0" in output
