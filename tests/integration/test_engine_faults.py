"""What goes wrong while a stack comes up on real containers, and how soon and in which words the engine says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from support.engine_stack import SmallStack
from support.kit import ROOT

pytestmark = [pytest.mark.engine, pytest.mark.slow]

BROKEN = "raise RuntimeError('this migration is broken on purpose')\n"


def test_broken_migration_stops_before_the_app_is_touched(cleaned: SmallStack) -> None:
    before = cleaned.containers()
    settings = cleaned.source / "site_settings.py"
    settings.write_text(BROKEN)
    cleaned.write(web_command=["python3", "manage.py", "runserver", "--noreload", "--nothreading", "0.0.0.0:8000"])

    ended = cleaned.run("up", "--json")

    assert ended.code == 1
    assert ended.json["code"] == "migrate"
    assert "this migration is broken on purpose" in ended.json["problem"]
    assert "make deploy" in ended.json["next"]
    assert cleaned.containers() == before
    assert cleaned.run("status", "--json").json["ready"] is True


def test_app_that_ends_is_given_up_at_once_with_its_last_words(cleaned: SmallStack) -> None:
    cleaned.write(web_command=["python3", "-c", "raise SystemExit('no such module: guestbok')"])
    started = time.monotonic()

    ended = cleaned.run("up", "--json")

    assert ended.code == 1
    assert ended.json["step"] == "ready"
    assert "no such module: guestbok" in ended.json["problem"]
    assert time.monotonic() - started < 30


def test_command_that_the_image_lacks_is_named(cleaned: SmallStack) -> None:
    cleaned.write(web_command=["gunicorn-that-is-not-there"])

    ended = cleaned.run("up", "--json")

    assert ended.code == 1
    assert ended.json["step"] == "ready"
    assert "exec gunicorn-that-is-not-there failed" in ended.json["problem"]


def test_restart_loop_of_an_earlier_failure_is_mended(cleaned: SmallStack) -> None:
    flag = cleaned.source / "flag"
    script = (
        "import os, sys; os.path.exists('flag') or sys.exit('no flag'); "
        "os.execvp('python3', ['python3', 'manage.py', 'runserver', '--noreload', '0.0.0.0:8000'])"
    )
    cleaned.write(web_command=["python3", "-c", script])
    assert cleaned.run("up").code == 1
    flag.touch()
    started = time.monotonic()

    cleaned.up()

    # Docker's own next try may be minutes away.
    assert time.monotonic() - started < 30
    assert cleaned.run("status", "--json").json["ready"] is True
    flag.unlink()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"command": ["python3", "-c", "raise SystemExit('no such queue')"]}, "no such queue"),
        ({"command": ["sleep", "600"], "healthcheck": {"test": ["CMD", "false"]}}, "is not healthy after 25 s"),
    ],
    ids=["ends", "is not well"],
)
def test_worker_that_does_not_work_fails_the_release_though_web_is_ready(
    new_stack: SmallStack, changes: dict[str, Any], said: str
) -> None:
    # Longer than the database takes to be made on a busy machine.
    limits = {"min_free_bytes": 1, "ready_timeout_seconds": 25, "command_timeout_seconds": 60}
    services = {"services": ["db", "web", "worker"], "app_services": ["web", "worker"]}
    new_stack.write(description={**services, "limits": limits})
    compose = new_stack.root / "docker-compose.local.yml"
    content = json.loads(compose.read_text())
    worker = {name: value for name, value in content["services"]["web"].items() if name != "ports"}
    content["services"]["worker"] = {**worker, **changes}
    compose.write_text(json.dumps(content))

    ended = new_stack.run("up", "--json")

    assert ended.code == 1
    assert "Service worker" in ended.json["problem"]
    assert said in ended.json["problem"]


def test_database_that_ends_is_given_up_at_once(new_stack: SmallStack) -> None:
    compose = new_stack.root / "docker-compose.local.yml"
    content = json.loads(compose.read_text())
    content["services"]["db"]["command"] = ["postgres", "-c", "shared_buffers=nonsense"]
    compose.write_text(json.dumps(content))
    started = time.monotonic()

    ended = new_stack.run("up", "--json")

    assert ended.code == 1
    assert ended.json["step"] == "database"
    assert "shared_buffers" in ended.json["problem"]
    assert time.monotonic() - started < 40


@pytest.mark.parametrize(
    ("probe", "said"),
    [({"host": "other.test"}, "HTTP 400 for Host other.test"), ({"ready": "/nowhere"}, "HTTP 404")],
    ids=["wrong host", "wrong path"],
)
def test_site_that_answers_wrongly_is_not_ready(cleaned: SmallStack, probe: dict[str, str], said: str) -> None:
    description = json.loads((cleaned.root / "stack.json").read_text())
    description["probe"].update(probe)
    description["limits"]["ready_timeout_seconds"] = 1
    cleaned.write(description=description)

    ended = cleaned.run("up", "--json")

    assert ended.json["code"] == "not_ready"
    assert said in ended.json["problem"]


def test_release_command_has_a_time_limit_and_leaves_no_container(new_stack: SmallStack) -> None:
    limits = {"min_free_bytes": 1, "ready_timeout_seconds": 60, "command_timeout_seconds": 8}
    new_stack.write(release_commands=[["sleep", "60"]], description={"limits": limits})

    ended = new_stack.run("up", "--json")

    assert ended.code == 1
    assert ended.json["step"] == "migrate"
    assert "sleep 60" in ended.json["problem"]
    assert "8 s" in ended.json["problem"]
    assert list(new_stack.containers()) == [f"{new_stack.project}-db-1"]


def test_interrupt_removes_the_one_off_container(new_stack: SmallStack) -> None:
    new_stack.write(release_commands=[["sleep", "60"]])
    engine = subprocess.Popen(
        [sys.executable, "-m", "kit_engine", "--root", str(new_stack.root), "up"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "plugins/module_utils")},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Whoever starts the tests in the background has them ignore it, and so would the engine.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    end = time.monotonic() + 60
    while len(new_stack.containers()) < 2 and time.monotonic() < end:
        time.sleep(0.2)

    os.killpg(engine.pid, signal.SIGINT)

    assert "Interrupted" in engine.communicate(timeout=60)[1]
    assert engine.returncode == 130
    assert list(new_stack.containers()) == [f"{new_stack.project}-db-1"]
