"""What is made of a found engine: captured answers of real programs, and the messages for those that will not do."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from kit_control import docker_host
from kit_control.docker_engine import Verdict, judge, read_probe, version_of
from kit_control.errors import KitError

COMPOSE = {"Name": "compose", "Version": "2.26.1-4", "Path": "/usr/libexec/docker/cli-plugins/docker-compose"}
BUILDX = {"Name": "buildx", "Version": "0.13.1+ds1", "Path": "/usr/libexec/docker/cli-plugins/docker-buildx"}
DOWN = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
# Engine 20.10's command and 28's, for a user outside the group docker.
REFUSED = [
    "Got permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: "
    'Get "http://%2Fvar%2Frun%2Fdocker.sock/v1.24/info": dial unix /var/run/docker.sock: connect: permission denied',
    "permission denied while trying to connect to the docker API at unix:///var/run/docker.sock",
]


def info(version: str = "20.10.24+dfsg1", *, plugins: Any = (BUILDX, COMPOSE), **rest: Any) -> str:
    return json.dumps({"ServerVersion": version, "ClientInfo": {"Context": "default", "Plugins": plugins}, **rest})


def probe(*lines: str, answer: str | None = None, uid: str = "0", newline: str = "\n", **values: str) -> str:
    seen = [f"uid {uid}", "user anna", "os debian 13 trixie", *(f"{name} {value}" for name, value in values.items())]
    if answer is not None:
        seen.append("docker /usr/bin/docker")
        seen += [f"info {line}" for line in (answer, *lines)]
    return "".join(f"kit:{line}{newline}" for line in [*seen, "end"])


def verdict(*lines: str, **values: Any) -> Verdict:
    return judge(read_probe(probe(*lines, **values)))


def refusal(*lines: str, **values: Any) -> KitError:
    with pytest.raises(KitError) as error:
        verdict(*lines, **values)
    return error.value


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("20.10.24+dfsg1", (20, 10)),
        ("2.26.1-4", (2, 26)),
        ("v2.20.2", (2, 20)),
        ("2.20.2+ds1-0ubuntu1~22.04.1", (2, 20)),
        ("docker-compose version 1.29.2, build unknown", (1, 29)),
        ("29.0.0-rc.1", (29, 0)),
        ("dev", None),
        ("", None),
    ],
)
def test_versions_are_read_as_the_programs_print_them(text: str, version: tuple[int, int] | None) -> None:
    assert version_of(text) == version


@pytest.mark.parametrize(
    ("kind", "extra", "values"),
    [
        ("system", {}, {}),
        ("system", {}, {"docker_host": "unix:///var/run/docker.sock"}),
        ("rootless", {"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"]}, {}),
        ("desktop", {"OperatingSystem": "Docker Desktop", "Name": "docker-desktop"}, {}),
        ("remote", {}, {"docker_host": "ssh://deploy@build.example.org"}),
        ("remote", {"ClientInfo": {"Context": "far", "Plugins": [BUILDX, COMPOSE]}}, {}),
    ],
)
def test_a_working_engine_of_any_kind_is_left_alone(kind: str, extra: dict[str, Any], values: dict[str, str]) -> None:
    found = verdict(answer=info(**extra), **values)
    assert (found.action, found.kind, found.missing) == ("none", kind, ())
    assert found.versions == {"engine": "20.10.24+dfsg1", "compose": "2.26.1-4", "buildx": "0.13.1+ds1"}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_terminals_line_ends_change_nothing(newline: str) -> None:
    assert verdict(answer=info(), newline=newline).action == "none"


@pytest.mark.parametrize(
    ("plugins", "missing"),
    [
        ([BUILDX], ("compose",)),
        ([COMPOSE], ("buildx",)),
        ([], ("compose", "buildx")),
        ([COMPOSE, {**BUILDX, "Err": "exec format error"}], ("buildx",)),
        (None, ("compose", "buildx")),
    ],
)
def test_only_missing_plugins_are_added(plugins: Any, missing: tuple[str, ...]) -> None:
    found = verdict(answer=info(plugins=plugins))
    assert (found.action, found.missing) == ("add", missing)


def test_a_bare_host_gets_all() -> None:
    assert verdict() == Verdict("install", ("compose", "buildx"))


def test_a_lone_docker_command_gets_an_engine() -> None:
    assert verdict(DOWN, answer=info("")) == Verdict("install")


def test_a_stopped_engine_is_started() -> None:
    assert verdict(answer=info("", ServerErrors=[DOWN]), dockerd="yes") == Verdict("start")
    assert verdict(answer=info("", plugins=[COMPOSE], ServerErrors=[DOWN]), dockerd="yes").action == "add"


@pytest.mark.parametrize("version", ["19.03.15", "18.09.1", "1.13.1", "20.9.9"])
def test_an_engine_that_is_too_old(version: str) -> None:
    error = refusal(answer=info(version))
    assert error.code == "engine_too_old"
    assert version in error.problem
    assert "20.10" in error.problem
    assert "apt-get" in error.remedy


def test_an_engine_too_old_for_its_command_to_talk_to() -> None:
    answer = "Error response from daemon: client version 1.52 is too new. Maximum supported API version is 1.39"
    assert refusal(answer, answer=info("")).code == "engine_too_old"


def test_a_command_too_old_for_its_engine() -> None:
    answer = "Error response from daemon: client version 1.41 is too old. Minimum supported API version is 1.44"
    assert "docker-cli" in refusal(answer, answer=info("")).remedy


@pytest.mark.parametrize("answer", [None, info(plugins=[BUILDX]), info("", plugins=[BUILDX], ServerErrors=[DOWN])])
def test_compose_v1_alone_is_refused_not_replaced(answer: str | None) -> None:
    error = refusal(answer=answer, standalone="docker-compose version 1.29.2, build unknown")
    assert error.code == "compose_v1"
    assert "1.29.2" in error.problem
    assert "apt-get remove docker-compose" in error.remedy


def test_compose_v1_beside_v2_does_not_matter() -> None:
    assert verdict(answer=info(), standalone="1.29.2").action == "none"


def test_compose_v2_as_a_command_of_its_own_is_no_plugin() -> None:
    assert verdict(answer=info(plugins=[BUILDX]), standalone="2.29.1").action == "add"


def test_compose_v2_that_is_too_old() -> None:
    error = refusal(answer=info(plugins=[BUILDX, {**COMPOSE, "Version": "v2.17.3"}]))
    assert error.code == "compose_too_old"
    assert "v2.17.3" in error.problem


@pytest.mark.parametrize(
    ("answer", "values", "named"),
    [
        (info("", ServerErrors=["no such host"]), {"docker_host": "tcp://far:2376"}, "DOCKER_HOST=tcp://far:2376"),
        (info("", ServerErrors=["down"], ClientInfo={"Context": "desktop-linux"}), {}, "context desktop-linux"),
    ],
)
def test_an_engine_elsewhere_that_does_not_answer_is_not_replaced(
    answer: str, values: dict[str, str], named: str
) -> None:
    error = refusal(answer=answer, dockerd="yes", **values)
    assert error.code == "engine_unreachable"
    assert named in error.problem
    assert "unset DOCKER_HOST" in error.remedy


def test_an_engine_that_hangs() -> None:
    assert "20 s" in refusal(answer="", status="124", dockerd="yes").problem


def test_podmans_docker_command_is_named() -> None:
    assert "podman" in refusal(answer='{"host": {}, "version": {"Version": "4.3.1"}}').remedy


@pytest.mark.parametrize("message", REFUSED)
def test_a_closed_socket_is_first_tried_as_root_then_refused(message: str) -> None:
    text = probe(message, answer=info(""), uid="1000")
    assert judge(read_probe(text)).refused
    problem = docker_host.state(text, SETTINGS, False, "sudo: a password is required")["problem"]
    for way_out in ("usermod -aG docker anna", "sudo without a password", "rootless"):
        assert way_out in problem


def test_installing_without_roots_rights_names_the_user_and_sudos_answer() -> None:
    seen = docker_host.state(probe(uid="1000"), SETTINGS, False, "sudo: not found")
    assert seen["code"] == "engine_root"
    assert "anna" in seen["problem"]
    assert "sudo: not found" in seen["problem"]


def test_a_probe_that_ended_early_is_not_taken_for_a_bare_host() -> None:
    with pytest.raises(KitError, match="early"):
        read_probe("kit:uid 0\nConnection reset by peer")


SETTINGS = {"log_max_size": "10m", "log_max_files": 3, "registry_mirrors": [], "live_restore": False}
MARKER = {
    "schema": 1,
    "installed": True,
    "daemon": {"log-driver": "json-file", "log-opts": {"max-size": "10m", "max-file": "3"}},
}


def encoded(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def test_the_settings_of_an_engine_that_is_not_the_kits_stay_untouched() -> None:
    text = probe(answer=info())
    assert docker_host.state(text, SETTINGS, False)["daemon"] is None
    assert docker_host.state(text, SETTINGS, True)["daemon"]["apply"] == "restart"


@pytest.mark.parametrize("kind", ["rootless", "remote"])
def test_the_settings_of_an_engine_elsewhere_stay_untouched_even_if_wanted(kind: str) -> None:
    far = {"docker_host": "tcp://far:2376"} if kind == "remote" else {}
    text = probe(answer=info(SecurityOptions=["name=rootless"] if kind == "rootless" else []), **far)
    assert docker_host.state(text, SETTINGS, True)["daemon"] is None


def test_an_engine_of_the_kits_with_its_settings_needs_nothing() -> None:
    text = probe(answer=info(), marker=encoded(MARKER), daemon_json=encoded(MARKER["daemon"]))
    daemon = docker_host.state(text, SETTINGS, False)["daemon"]
    assert (daemon["changed"], daemon["record"], daemon["apply"]) == (False, False, "none")


def test_a_changed_mirror_is_only_reloaded() -> None:
    text = probe(answer=info(), marker=encoded(MARKER), daemon_json=encoded(MARKER["daemon"]))
    changed = {**SETTINGS, "registry_mirrors": ["https://mirror.example.org"]}
    assert docker_host.state(text, changed, False)["daemon"]["apply"] == "reload"


def test_unknown_keys_are_found_before_an_engine_without_validation_is_restarted() -> None:
    values = {"marker": encoded(MARKER), "daemon_json": encoded({"regsitry-mirrors": []})}
    assert "regsitry-mirrors" in docker_host.state(probe(answer=info(), **values), SETTINGS, False)["problem"]
    assert not docker_host.state(probe(answer=info("26.1.5"), **values), SETTINGS, False)["problem"]


def test_a_broken_daemon_json_stops_before_anything_is_installed() -> None:
    broken = base64.b64encode(b'{"debug": true,\n  }').decode()
    problem = docker_host.state(probe(daemon_json=broken), SETTINGS, False)["problem"]
    assert "/etc/docker/daemon.json, line 2, column 3" in problem


def test_managing_the_settings_of_an_engine_does_not_make_it_the_kits() -> None:
    managed = docker_host.state(probe(answer=info()), SETTINGS, True)["daemon"]
    text = probe(answer=info(), marker=encoded(json.loads(managed["marker"])), daemon_json=encoded(MARKER["daemon"]))
    assert docker_host.state(text, SETTINGS, False)["daemon"] is None
