"""What looks for secrets finds those that are planted: each place has its own, and so has what is closed."""

from __future__ import annotations

import base64
import json
import shlex
import subprocess

import pytest
from support.canary import Watch, public_places, said
from testbed.hosts import Host

SECRET = 'planted "canary" 4WqX7-\\n$0815%'  # noqa: S105 - of nothing
# By name: the file, its mode, and the folder's.
FILES = {
    "open file": ("/srv/planted/open.conf", "0644", "0755"),
    "file of a group": ("/etc/planted/group.conf", "0640", "0755"),
    "log": ("/var/log/planted/app.log", "0600", "0755"),
    "rotated log": ("/srv/planted/shared/logs/app.log.1", "0600", "0700"),
}
CLOSED = {
    "closed file": ("/srv/planted/closed.conf", "0600", "0755"),
    "open file in a closed folder": ("/srv/planted/closed/open.conf", "0644", "0700"),
}


def plant(host: Host, script: str) -> None:
    """Run a script that holds secrets; it comes by standard input, so that none stands in an argument before it."""
    words = [*host.ssh_words, "sudo bash -s"]
    subprocess.run(words, input=script.encode(), check=True, capture_output=True, timeout=60)


@pytest.mark.host
@pytest.mark.slow
def test_a_process_list_is_watched_from_the_first_moment(engine_host: Host) -> None:
    values = {"planted": "canary-argument-4WqX7", "other": "canary-that-nobody-says"}
    with Watch(engine_host, values) as quiet:
        plant(engine_host, "sleep 0.5")
    assert quiet.told["looks"] > 3
    assert quiet.told["found"] == {}

    with Watch(engine_host, values) as watch:
        plant(engine_host, f"exec -a 'tool --password={values['planted']}' sleep 0.3")

    assert list(watch.told["found"]) == ["planted"]
    assert "tool --password" in watch.told["found"]["planted"]


@pytest.mark.host
@pytest.mark.slow
def test_open_places_of_a_host_are_searched_and_closed_ones_are_not(engine_host: Host) -> None:
    values = {name: f"canary-{number}-4WqX7" for number, name in enumerate([*FILES, *CLOSED])}
    made = {"environment of a container": "canary-environment", "output of a container": "canary-output",
            "environment of an image": "canary-image", "journal": "canary-journal"}  # fmt: skip
    lines = ["set -eu"]
    for name, (path, mode, folder) in {**FILES, **CLOSED}.items():
        lines += [
            f"mkdir -p $(dirname {path})",
            f"echo 'key = {values[name]}' > {path}",
            f"chmod {mode} {path}; chmod {folder} $(dirname {path})",
        ]
    lines += [
        "apt-get install -y -qq busybox-static >/dev/null 2>&1; box=$(readlink -f $(command -v busybox))",
        "tar -c -C / ${box#/} | docker import - planted:1",
        # Of an image alone: a container made from it would tell the same.
        f"tar -c -T /dev/null | docker import --change 'ENV X={made['environment of an image']}' - planted:2",
        f"docker run --name planted --env Y={made['environment of a container']} planted:1"
        f" $box echo {made['output of a container']} >/dev/null",
        f"logger {made['journal']}",
    ]
    try:
        plant(engine_host, "\n".join(lines))

        files, found = public_places(engine_host, {**values, **made})

        assert files > 100
        told = {name: [line for line in found if line.startswith(f"{name} in ")] for name in (*values, *made)}
        assert [name for name in told if not told[name]] == list(CLOSED)
        for name, (path, _mode, _folder) in FILES.items():
            assert told[name] == [f"{name} in {path}"]
        assert f"{'environment of a container'} in docker container inspect" in found
        assert any("in docker logs" in line for line in told["output of a container"])
    finally:
        engine_host.run(
            "sudo docker rm -f planted; sudo docker image rm planted:1 planted:2;"
            "sudo rm -rf /srv/planted /etc/planted /var/log/planted",
            check=False,
        )


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        json.dumps({"password": SECRET}),
        json.dumps(json.dumps({"password": SECRET})),
        repr({"password": SECRET}),
        shlex.join(["tool", f"--password={SECRET}"]),
        base64.b64encode(f"user:{SECRET}".encode()).decode(),
        base64.b64encode(f"{SECRET}\n".encode()).decode(),
        f'password: "{SECRET[:12]}\n        {SECRET[12:]}"',
    ],
    ids=["plain", "JSON", "JSON in JSON", "Python", "shell", "Base64 of a login", "Base64", "folded"],
)
def test_what_was_said_is_searched_in_every_form(form: str) -> None:
    values = {"planted": SECRET, "other": "canary-that-nobody-says"}
    output = "\n".join(["ok: [web1]", "x" * 1000, f"stdout: {form}", "PLAY RECAP"])
    assert said(output, values) == ["planted"]
    assert said(output.replace(form, "***"), values) == []


def test_a_value_that_is_too_short_to_look_for_is_refused() -> None:
    with pytest.raises(AssertionError, match="SHORT"):
        said("anything", {"SHORT": ""})
