"""The engine on real containers: Django from the second project, PostgreSQL from the base images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kit_control import engine_archive
from support.engine_stack import PASSWORD, SmallStack, docker

pytestmark = [pytest.mark.engine, pytest.mark.slow]

NEW_APP = {
    "notes/__init__.py": "",
    "notes/models.py": "",
    "notes/migrations/__init__.py": "",
    "notes/migrations/0001_initial.py": "from django.db import migrations\n\n\n"
    "class Migration(migrations.Migration):\n    operations = []\n",
}


def test_first_up_tells_what_it_did_and_shows_the_admin_once(new_stack: SmallStack) -> None:
    ended = new_stack.run("up", "--json")

    assert ended.code == 0, ended.err
    told = ended.json
    assert told["changed"] is True
    assert set(told["containers"].values()) == {"created"}
    assert len(told["containers"]) == 2
    assert "auth.0001_initial" in told["migrations"]
    assert told["admin"]["username"] == "admin"
    assert [line.split("…")[0].strip() for line in ended.err.splitlines()] == [
        "[1/5] check", "[2/5] database", "[3/5] migrate", "[4/5] start", "[5/5] ready",
    ]  # fmt: skip
    login = f"username='admin', password={told['admin']['password']!r}"
    question = f"from django.contrib.auth import authenticate; print(authenticate({login}))"
    assert new_stack.run("manage", "shell", "-v", "0", "-c", question).out.strip() == "admin"
    assert told["admin"]["password"] not in "".join(
        [path.read_text() for path in new_stack.root.rglob("*") if path.is_file()]
        + [docker("inspect", *new_stack.containers().values()), new_stack.run("logs").out, new_stack.run("up").out]
    )


def test_second_up_changes_nothing_and_is_quick(running: SmallStack) -> None:
    before = running.containers()
    seconds = []
    for _ in range(2):
        started = time.monotonic()
        told = running.up()
        seconds.append(time.monotonic() - started)
        assert told["changed"] is False, told
    assert running.containers() == before
    assert min(seconds) < 3


def test_new_migration_is_applied_in_place(cleaned: SmallStack) -> None:
    before = cleaned.containers()
    for name, text in NEW_APP.items():
        path = cleaned.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    settings = cleaned.source / "site_settings.py"
    settings.write_text(settings.read_text().replace("INSTALLED_APPS = [", 'INSTALLED_APPS = ["notes", '))

    told = cleaned.up()

    assert told["migrations"] == ["notes.0001_initial"]
    assert told["changed"] is True
    assert cleaned.containers() == before


def test_migration_undone_by_hand_is_applied_again(running: SmallStack) -> None:
    assert running.run("manage", "migrate", "auth", "0011").code == 0

    assert running.up()["migrations"] == ["auth.0012_alter_user_first_name_max_length"]


def test_files_in_the_mounted_source_belong_to_the_app_s_user_where_declared(new_stack: SmallStack) -> None:
    before = {path: path.stat().st_uid for path in new_stack.source.rglob("*")}

    new_stack.up()

    write = "import pathlib; pathlib.Path('/app/media/uploads/one').write_text('x')"
    assert new_stack.run("manage", "shell", "-v", "0", "-c", write).code == 0
    assert {(new_stack.source / name).stat().st_uid for name in ("media/uploads", "media/uploads/one")} == {10001}
    assert before == {path: path.stat().st_uid for path in before}
    assert new_stack.run("manage", "shell", "-v", "0", "-c", write.replace("media/uploads", ".")).code != 0


def test_secret_file_is_for_its_reader_alone_and_is_never_said(running: SmallStack) -> None:
    secret = running.root / "shared/secrets/database_password"
    assert secret.stat().st_mode & 0o777 == 0o400
    assert secret.parent.stat().st_mode & 0o777 == 0o700
    said = [
        running.run(*verb).out + running.run(*verb).err for verb in (["up"], ["status", "--json"], ["check"], ["ps"])
    ]
    assert PASSWORD not in "".join(said)


def test_another_database_password_is_set_without_a_new_container(cleaned: SmallStack) -> None:
    before = cleaned.containers()
    changed = PASSWORD + "-changed"
    (cleaned.root / "secrets/database_password").write_text(changed)
    environment = cleaned.root / ".env.local"
    environment.write_text(environment.read_text().replace(PASSWORD, changed))

    assert "the database role's password" in cleaned.up()["prepared"]

    after = cleaned.containers()
    web, db = f"{cleaned.project}-web-1", f"{cleaned.project}-db-1"
    assert after[db] == before[db]
    # Ready again, so the server took the new one.
    assert after[web] != before[web]
    assert cleaned.up()["changed"] is False


def test_a_new_secret_of_the_app_leaves_the_database_alone(cleaned: SmallStack) -> None:
    before = cleaned.containers()
    (cleaned.root / "secrets/app_key").write_text("new")
    compose = cleaned.root / "docker-compose.local.yml"
    content = json.loads(compose.read_text())
    content["secrets"]["app_key"] = {"file": "../secrets/app_key"}
    content["services"]["web"]["secrets"] = ["app_key"]
    compose.write_text(json.dumps(content))

    assert cleaned.up()["changed"] is True

    after = cleaned.containers()
    web, db = f"{cleaned.project}-web-1", f"{cleaned.project}-db-1"
    assert after[db] == before[db]
    assert after[web] != before[web]
    assert (cleaned.root / "records/running.json").stat().st_mode & 0o777 == 0o600
    (cleaned.root / "secrets/app_key").unlink()


def test_what_the_engine_keeps_belongs_to_the_roots_owner(new_stack: SmallStack) -> None:
    os.chown(new_stack.root, 1234, 1234)

    new_stack.up()

    kept = [new_stack.root / name for name in ("records", "records/running.json", "shared", "shared/secrets")]
    assert {path.stat().st_uid for path in kept} == {1234}
    assert (new_stack.root / "shared/secrets/database_password").stat().st_uid != 1234


class TestDownAndDestroy:
    """down keeps the data, destroy wants the name."""

    def test_down_keeps_rows(self, new_stack: SmallStack) -> None:
        new_stack.up()
        make_user = "from django.contrib.auth.models import User; User.objects.create(username='kept')"
        assert new_stack.run("manage", "shell", "-c", make_user).code == 0
        assert new_stack.run("down", "--json").json["changed"] is True
        assert new_stack.containers() == {}
        assert new_stack.run("down", "--json").json["changed"] is False

        told = new_stack.up()

        assert told["migrations"] == []
        assert told["admin"] is None
        count = "from django.contrib.auth.models import User; print(User.objects.filter(username='kept').count())"
        assert new_stack.run("manage", "shell", "-v", "0", "-c", count).out.strip() == "1"

    def test_destroy_wants_the_name(self, running: SmallStack) -> None:
        before = running.containers()

        asked = running.run("destroy")
        wrong = running.run("destroy", "--confirm", "prod")

        assert (asked.code, wrong.code) == (2, 2)
        assert "CONFIRM=local" in asked.err
        assert "'prod' is not the environment's name" in wrong.err
        assert running.containers() == before

    def test_destroy_removes_everything(self, new_stack: SmallStack) -> None:
        new_stack.up()
        docker(
            "volume", "create", "--label", f"com.docker.compose.project={new_stack.project}", f"{new_stack.project}_old"
        )

        assert new_stack.run("destroy", "--confirm", "local", "--json").json["changed"] is True

        assert new_stack.containers() == {}
        assert new_stack.project not in docker("volume", "ls", "--quiet")
        assert new_stack.up()["admin"] is not None


class TestEveryDay:
    """status, ps, logs, shell, manage, migrate, restart."""

    def test_status_says_what_is_ready(self, running: SmallStack, new_stack: SmallStack) -> None:
        told = running.run("status", "--json").json
        assert told["ready"] is True
        assert [row["service"] for row in told["containers"]] == ["db", "web"]
        assert "ready, http://" in running.run("status").out
        down = new_stack.run("status", "--json").json
        assert (down["ready"], down["missing"]) == (False, ["db", "web"])
        assert "Next: make deploy" in new_stack.run("status").out

    def test_commands_pass_exit_codes_and_input_on(self, running: SmallStack) -> None:
        assert running.run("shell", stdin="exit 7\n").code == 7
        assert running.run("shell", "db", stdin="psql -U guestbook -Atc 'select 6*7'\n").out.strip() == "42"
        assert running.run("manage", "no_such_command").code == 1
        assert running.run("manage", "check", "--fail-level", "WARNING").code == 0

    def test_logs_of_one_service(self, running: SmallStack) -> None:
        assert "GET /up" in running.run("logs", "web").out
        assert "GET /up" not in running.run("logs", "db").out

    def test_ps_lists_the_containers(self, running: SmallStack) -> None:
        assert f"{running.project}-web-1" in running.run("ps").out

    def test_service_that_does_not_exist(self, running: SmallStack) -> None:
        ended = running.run("logs", "webb")
        assert ended.code == 2
        assert "there are: db, web" in ended.err

    def test_command_in_a_stack_that_is_down(self, new_stack: SmallStack) -> None:
        ended = new_stack.run("manage", "check")
        assert ended.code == 1
        assert "not running" in ended.err
        assert "Next: make deploy" in ended.err

    def test_migrate_alone(self, running: SmallStack) -> None:
        assert running.run("migrate", "--json").json == {
            "ok": True, "verb": "migrate", "changed": False, "migrations": [],
        }  # fmt: skip

    def test_restart_keeps_containers(self, running: SmallStack) -> None:
        before = running.containers()
        assert running.run("restart", "web", "--json").json["containers"] == {f"{running.project}-web-1": "started"}
        assert running.containers() == before
        assert running.up()["changed"] is False


def test_zipapp_does_the_same_on_the_oldest_python_at_hand(running: SmallStack, oldest_python: str) -> None:

    archive = running.root / "bin/engine.pyz"
    assert engine_archive.write(archive) is True
    assert engine_archive.write(archive) is False
    done = subprocess.run(
        [oldest_python, str(archive), "--root", str(running.root), "up", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["changed"] is False


@pytest.fixture
def oldest_python() -> str:
    """Python 3.9 where there is one, else this one."""
    found = Path("~/.pyenv/versions").expanduser().glob("3.9.*/bin/python3.9")
    return str(next(iter(found), sys.executable))
