"""Rules of the repository that no linter knows."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.kit import ROOT


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository, new ones included, that match git's patterns."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    """Read a file; pictures and the like count as empty."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


ROLES = sorted(path.parent.parent.name for path in tracked("roles/*/tasks/main.yml"))


def test_the_kit_knows_nothing_of_the_example_app() -> None:
    word = "camp" + "aign"
    own = [
        path for path in tracked() if path.relative_to(ROOT).parts[0] not in ("app", "docs", "README.md", "changelog.d")
    ]
    # Golden files and env/.env.example are written from the example's manifest.
    kit = [path for path in own if "golden" not in path.parts and path.name != ".env.example"]
    assert [path for path in kit if word in text_of(path).lower() or word in path.name] == []


def options_of(role: str) -> dict[str, dict[str, Any]]:
    specs = yaml.safe_load((ROOT / f"roles/{role}/meta/argument_specs.yml").read_text())["argument_specs"]
    return {name: option for entry in specs.values() for name, option in entry.get("options", {}).items()}


@pytest.mark.parametrize("role", ROLES)
def test_a_yes_or_no_of_the_command_line_is_one(role: str) -> None:
    """`-e name=false` brings the text "false", which is true to Jinja and Python alike; `become` converts by itself."""
    flags = [name for name, option in options_of(role).items() if option.get("type") == "bool"]
    taken = [
        line.strip()
        for path in tracked(f"roles/{role}/tasks/*.yml", f"roles/{role}/vars/*.yml")
        for line in path.read_text().splitlines()
        for name in flags
        if re.search(rf"\b{name}\b(?! \| bool|: )", line) and not re.match(r"\s*(become|tags):", line)
    ]
    assert taken == []


@pytest.mark.parametrize("role", ROLES)
def test_a_roles_inputs_are_specified_and_have_defaults(role: str) -> None:
    options = options_of(role)
    defaults_file = ROOT / f"roles/{role}/defaults/main.yml"
    defaults = yaml.safe_load(defaults_file.read_text()) if defaults_file.exists() else {}
    required = {name for name, option in options.items() if option.get("required")}
    assert set(options) == set(defaults) | required
    assert {name for name in options if not name.startswith(f"{role}_")} == set()


@pytest.mark.parametrize(
    "path", tracked("roles/*/tasks/*.yml", "playbooks/*.yml"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_task_files_are_read_at_a_glance(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 120


@pytest.mark.parametrize("path", tracked("*.py"), ids=lambda path: str(path.relative_to(ROOT)))
def test_python_files_stay_small(path: Path) -> None:
    assert "migrations" in path.parts or len(path.read_text().splitlines()) <= 500


@pytest.mark.parametrize("path", tracked(":(glob)playbooks/*.yml"), ids=lambda path: path.name)
def test_every_play_stops_at_the_first_failure(path: Path) -> None:
    for play in yaml.safe_load(path.read_text()):
        assert "import_playbook" in play or play["any_errors_fatal"] is True, play["name"]


def test_no_error_is_swallowed() -> None:
    pattern = re.compile(r"ignore_errors|failed_when: false|ignore_unreachable")
    found = [path for path in tracked("roles/*.yml", "playbooks/*.yml") if pattern.search(path.read_text())]
    assert found == []


# Run on the control node, or take no time.
UNBOUND = re.compile(
    r"(ansible\.builtin\.)?(set_fact|debug|fail|assert|import_\w+|include_\w+|kit_bundle|kit_secrets|meta)$"
)
KEYWORDS = {
    *("name", "when", "register", "become", "vars", "loop", "loop_control", "changed_when", "failed_when", "tags"),
    *("check_mode", "environment", "args", "delegate_to", "timeout", "run_once", "throttle"),
}


def tasks_of(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every single task of a file, those inside blocks included."""
    for entry in entries:
        if "block" in entry:
            yield from tasks_of(entry["block"] + entry.get("rescue", []) + entry.get("always", []))
        else:
            yield entry


@pytest.mark.parametrize("path", tracked("roles/*/tasks/*.yml"), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_remote_step_has_a_time_limit(path: Path) -> None:
    endless = []
    for task in tasks_of(yaml.safe_load(path.read_text())):
        (module,) = set(task) - KEYWORDS
        if not UNBOUND.match(module) and "timeout" not in task:
            endless.append(task["name"])
    assert endless == []


def test_no_role_asks_which_environment_it_is_in() -> None:
    pattern = re.compile(r"kit_env\s*(==|!=|in\b)|['\"](local|dev|prod)['\"]\s*(==|in)")
    assert [path for path in tracked("roles/*", "compose/*", "nginx/*") if pattern.search(text_of(path))] == []


def test_no_index_address_and_no_machine_path() -> None:
    hosts = "|".join(["deb" + r"ian\.org", "py" + r"pi\.", "python" + r"hosted\.", "npm" + r"js\."])
    pattern = re.compile(rf"https?://[a-z0-9.-]*({hosts})|(?<![\w./-])/(work|root)/")
    assert [path for path in tracked() if pattern.search(text_of(path))] == []


def test_inventories_hold_no_host_and_no_secret() -> None:
    for env in ("dev", "prod"):
        assert yaml.safe_load((ROOT / f"inventories/{env}/hosts.yml").read_text()) == {"app": None}
    assert tracked("inventories/*/group_vars/all/vault.yml", ".vault/*") == []


def test_locks_are_pinned_with_hashes() -> None:
    for lock in tracked("requirements/*.txt", "app/requirements/*.txt"):
        entries = re.split(r"\n(?=[a-z])", lock.read_text().strip())
        packages = [entry for entry in entries if re.match(r"[a-zA-Z0-9]", entry)]
        assert packages
        assert [entry.split()[0] for entry in packages if "==" not in entry or "--hash=sha256:" not in entry] == []
