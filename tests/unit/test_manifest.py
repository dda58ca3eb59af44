"""A manifest's mistakes: all at once, each with its place, what was found and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit_control import manifest
from kit_control.errors import KitError
from support.kit import EXAMPLE, FIXTURE

VALID = """\
schema_version: 1
name: shop
python: {requirements: lock.txt}
django: {wsgi: "site:application", settings_module: site}
health: {ready: /up}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder that holds the files a manifest names."""
    (tmp_path / "lock.txt").touch()
    (tmp_path / "manage.py").touch()
    return tmp_path


def problem_of(project: Path, text: str) -> str:
    """Load a manifest with mistakes and return the message."""
    (project / "deploy.yml").write_text(text)
    with pytest.raises(KitError) as caught:
        manifest.load(project / "deploy.yml")
    return str(caught.value)


@pytest.mark.parametrize("path", [EXAMPLE, FIXTURE], ids=["example", "fixture"])
def test_the_shipped_manifests_are_valid(path: Path) -> None:
    assert manifest.load(path).source == path.parent


def test_defaults_are_filled_in_at_every_depth(project: Path) -> None:
    text = VALID + "variables: {COLOUR: {meaning: x}}\nprocesses: {worker: {command: [run]}}\n"
    (project / "deploy.yml").write_text(text)
    data = manifest.load(project / "deploy.yml").data
    assert data["django"]["manage"] == "manage.py"
    assert data["variables"]["COLOUR"] == {
        "meaning": "x",
        "type": "string",
        "secret": False,
        "required": False,
        "forbidden_prefixes": [],
    }
    assert data["processes"]["worker"]["stop_grace_seconds"] == 60
    assert data["system_packages"] == {"build": [], "run": []}
    assert data["nginx"]["client_max_body_size"] == "10m"


def test_every_mistake_is_reported_at_once_in_file_order(project: Path) -> None:
    text = VALID.replace("name: shop", "name: Shop!") + "colour: red\nprocesses:\n  web: {command: []}\n"
    message = problem_of(project, text)
    places = [line.split(": ")[0].split(":")[1] for line in message.splitlines() if line.startswith("  ")]
    assert places == ["2", "6", "8", "8"]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        (VALID + "colour: red\n", "6:1: colour", ["unknown key 'colour'", "allowed: build, django"]),
        (
            VALID.replace("schema_version: 1", "schema_version: 7"),
            "1:1: schema_version",
            ["found 7", "allowed: 1"],
        ),
        (VALID.replace("name: shop\n", ""), "1:1: (top level)", ["required key 'name' is missing"]),
        (
            VALID.replace("python: {", "python: {version: 3.13, "),
            "3:10: python.version",
            ["found 3.13", "string is wanted", 'in quotes: "3.13"'],
        ),
        (
            VALID + "variables: {A: {meaning: x, type: text}}\n",
            "6:29: variables.A.type",
            ['found "text"', "integer"],
        ),
        (
            VALID + "variables: {KEY_FILE: {meaning: x}}\n",
            "6:13: variables.KEY_FILE",
            ["must not end in _FILE"],
        ),
        (
            VALID + "processes: {db: {command: [x]}}\n",
            "6:13: processes.db",
            ["reserved: web, db, redis, nginx"],
        ),
        (VALID + "smoke: [{name: a, path: /, status: 999}]\n", "6:28: smoke.0.status", ["999", "100 to 599"]),
        (VALID + "smoke: [{name: a, path: /, login: token}]\n", "6:28: smoke.0.login", ["login: {token: {path: ...}}"]),
        (
            VALID + "smoke: [{name: a, path: /, method: POST}]\n",
            "6:28: smoke.0.method",
            ["writes: true", "status: 4xx"],
        ),
        (
            VALID + "smoke: [{name: a, path: /, permissions: [shop.add_item]}]\n",
            "6:28: smoke.0.permissions",
            ["add writes: true"],
        ),
        (
            VALID + "hooks: {after_deploy: []}\n",
            "6:9: hooks.after_deploy",
            ["unknown key", "after_backup_failure, after_failure"],
        ),
        (
            VALID + "hooks: {after_switch: [{run: host, command: [x]}]}\n",
            "6:25: hooks.after_switch.0.run",
            ['found "host"', "allowed: control, image"],
        ),
        (
            VALID + "hooks: {after_switch: [{run: image}]}\n",
            "6:24: hooks.after_switch.0",
            ["required key 'command' is missing"],
        ),
        (
            VALID + "hooks: {after_switch: [{run: image, command: [x], timeout_seconds: 0}]}\n",
            "6:51: hooks.after_switch.0.timeout_seconds",
            ["found 0", "1 to 3600"],
        ),
        (VALID + "name: other\n", "6:1: name", ["written twice", "line 2"]),
        (
            VALID.replace("lock.txt", "gone.txt"),
            "3:10: python.requirements",
            ["there is no file", "gone.txt"],
        ),
        (VALID.replace("lock.txt", "../lock.txt"), "3:10: python.requirements", ["../lock.txt"]),
        (VALID + "source: {path: nowhere}\n", "6:10: source.path", ["there is no folder", "nowhere"]),
        (
            VALID + "variables: {A: {meaning: x, secret: true, default: s3}}\n",
            "6:13: variables.A",
            ["a secret has no default"],
        ),
        (VALID + "variables: {A: {meaning: x, generate: 20}}\n", "6:13: variables.A", ["add secret: true"]),
        (
            VALID + "variables: {A: {meaning: x, from: database.password}}\n",
            "6:13: variables.A",
            ["is a secret"],
        ),
    ],
)
def test_a_mistake_names_place_finding_and_what_is_allowed(
    project: Path, text: str, place: str, words: list[str]
) -> None:
    message = problem_of(project, text)
    assert f"{project}/deploy.yml:{place}: " in message
    for word in words:
        assert word in message
    assert f"Next: Edit {project}/deploy.yml" in message


def test_an_app_without_a_readiness_path_is_refused(project: Path) -> None:
    said = problem_of(project, VALID.replace("health: {ready: /up}\n", "health: {live: /up}\n"))
    assert "health" in said
    assert "ready" in said
    assert "health" in problem_of(project, VALID.replace("health: {ready: /up}\n", ""))


def test_bad_yaml_names_line_and_column(project: Path) -> None:
    assert f"{project}/deploy.yml:2:9: this is not valid YAML" in problem_of(project, "a: 1\nb: [1, 2}\n")


def test_a_missing_file_says_how_to_name_another(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"make deploy MANIFEST=path/to/deploy.yml"):
        manifest.load(tmp_path / "deploy.yml")
