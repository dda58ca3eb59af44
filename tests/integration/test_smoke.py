"""The smoke checks: quiet about a sound stack, and red under the right name for each planted fault."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from kit_control import engine_archive, smoke
from kit_control.errors import KitError
from support.engine_stack import docker
from support.kit import ROOT, Run, playbook
from support.prod_stack import SECRETS, ProdStack, bring_up, remove

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# The promised 3 s of a gate, as time of this machine's processors: other tests share them.
GATE_SECONDS = 3
RUN_SECONDS = 180


@dataclass(frozen=True)
class Checks:
    """The smoke checks of a stack on this machine.

    Attributes:
        stack: the stack.
        scratch: folder of its manifest and of build/.
    """

    stack: ProdStack
    scratch: Path

    def playbook(self, **variables: Any) -> Run:
        """Run playbooks/smoke.yml as `make smoke` does; the host is this machine."""
        inventory = self.scratch / "hosts.yml"
        here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory.write_text(yaml.safe_dump({"app": {"hosts": {"localhost": here}}}))
        given = {"project_manifest": str(self.scratch / "deploy.yml"), "deploy_root": str(self.stack.root)}
        return playbook(
            "smoke", "prod", {**given, **variables}, "-i", str(inventory), scratch=self.scratch, limit=RUN_SECONDS
        )

    @property
    def results(self) -> dict[str, Any]:
        """What the last run found on the one host."""
        told: dict[str, Any] = json.loads((self.stack.root / "smoke.json").read_text())
        return told

    def failed(self, *words: str) -> dict[str, str]:
        """Run some checks by plain pytest, with the plan that is there, and give the failed ones with their reasons.

        Args:
            words: what to run, and pytest's options; all checks without any.
        """
        files = [word for word in words if word.endswith(".py")] or ["."]
        options = [word for word in words if not word.endswith(".py")]
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", *(f"tests/smoke/{name}" for name in files), *options),
                *("-q", "--tb=no", "-p", "no:cacheprovider", f"--smoke-plan={self.stack.root}/smoke-plan.json"),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        assert done.returncode in (0, 1), done.stdout + done.stderr
        results = self.results
        assert results["ok"] == (done.returncode == 0)
        checks = results["hosts"]["localhost"]["checks"]
        return {
            f"{one['check']}: {one['subject']}".removesuffix(": "): one["reason"]
            for one in checks
            if one["outcome"] == "failed"
        }

    def count(self, expression: str) -> int:
        """Evaluate an expression over `User`, `Session` and `Token` in the project's shell."""
        script = (
            "from django.contrib.auth import get_user_model; User = get_user_model().objects;"
            "from django.contrib.sessions.models import Session; Session = Session.objects;"
            "from rest_framework_simplejwt.token_blacklist.models import OutstandingToken as Token;"
            f"Token = Token.objects; print({expression})"
        )
        return int(self.stack.inside("web", "python", "manage.py", "shell", "-v", "0", "-c", script))


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checks]:
    """A sound prod stack, with the engine where a deploy puts it."""
    scratch = tmp_path_factory.mktemp("smoke")
    try:
        stack = bring_up(scratch, {})
        engine_archive.write(stack.root / "bin/engine.pyz")
        yield Checks(stack, scratch)
    finally:
        remove()


class TestProd:
    """In the order of the file: the first test writes the plan for the others, the last leaves other containers."""

    def test_sound_stack_passes_and_is_left_as_it_was(self, checks: Checks) -> None:
        everything = "User.count() + Session.count() + Token.count()"
        before = checks.count(everything)

        run = checks.playbook()

        assert run.code == 0, run.output
        found = checks.results["hosts"]["localhost"]
        assert (found["failed"], found["logs"]) == (0, {})
        passed = {(one["check"], one["subject"]) for one in found["checks"] if one["outcome"] == "passed"}
        assert {
            ("service is healthy", "worker"),
            ("CIS 5.13 read-only root", "db"),
            ("every static file is served", ""),
            ("request", "admin greets a colleague"),
            ("request", "API knows who asks"),
            ("header stands once", "Strict-Transport-Security"),
        } <= passed
        assert checks.count(everything) == before

    def test_what_is_not_run_says_why(self, checks: Checks) -> None:
        rest = [one for one in checks.results["hosts"]["localhost"]["checks"] if one["outcome"] == "not run"]
        assert all(one["reason"] for one in rest)
        reasons = {one["check"]: one["reason"] for one in rest}
        assert "smoke_writes" in reasons["upload is served"]
        report = ElementTree.parse(checks.stack.root / "smoke.xml").getroot()  # noqa: S314 - our own file
        assert len(report.findall(".//testcase")) == len(checks.results["hosts"]["localhost"]["checks"])
        assert len(report.findall(".//skipped")) == len(rest)

    def test_facts_hold_no_secret(self, checks: Checks) -> None:
        told = checks.stack.engine("facts", "--json", "--request", "{}").stdout
        assert json.loads(told)["containers"]
        assert [name for name, value in SECRETS.items() if value in told] == []

    def test_gate_is_quick(self, checks: Checks) -> None:
        spent = []
        for _ in range(2):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            started = time.monotonic()
            assert checks.failed("-m", "gate") == {}
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            of_processors = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
            spent.append(min(of_processors, time.monotonic() - started))
        assert min(spent) < GATE_SECONDS
        assert checks.results["gate"] is True

    def test_gate_that_was_loaded_ahead_checks_what_is_wanted_later(
        self, checks: Checks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = checks.stack.root / "smoke-plan.json"
        text = plan.read_text()
        monkeypatch.setattr(smoke._Ahead, "started", None)
        plan.unlink()
        try:
            smoke.begin_ahead(ROOT, checks.stack.root)
            ahead = smoke._Ahead.started
            assert ahead
            with pytest.raises(subprocess.TimeoutExpired):
                ahead.program.wait(3)
        finally:
            plan.write_text(text)
        for _ in range(2):
            told = smoke.run(ROOT, plan, gate=True, limit=RUN_SECONDS, env="prod")
            assert (told["ok"], told["gate"]) == (True, True)
            # The second one, as of another batch of hosts, is a new one.
            assert ahead.program.wait(RUN_SECONDS) == 0

    def test_checks_that_never_end_say_where_they_were(self, checks: Checks) -> None:
        container = checks.stack.container("nginx")
        docker("pause", container)
        try:
            with pytest.raises(KitError, match=r"did not end\. The last to begin: test_.*localhost"):
                smoke.run(ROOT, checks.stack.root / "smoke-plan.json", gate=True, limit=8, env="prod")
        finally:
            docker("unpause", container)

    def test_where_writing_is_allowed_files_and_rows_are_written(self, checks: Checks) -> None:
        plan = checks.stack.root / "smoke-plan.json"
        text = plan.read_text()
        plan.write_text(text.replace('"writes": false,\n      "trust', '"writes": true,\n      "trust'))
        assert plan.read_text() != text
        try:
            failed = checks.failed("test_site.py", "-k", "upload or written")
        finally:
            plan.write_text(text)

        assert failed == {}
        found = checks.results["hosts"]["localhost"]["checks"]
        assert {one["outcome"] for one in found if one["check"] == "upload is served"} == {"passed"}
        assert {one["outcome"] for one in found if one["subject"] == "a contact is written"} == {"passed"}
        assert checks.count("User.filter(username__startswith='kit-smoke').count()") == 0
        assert "kit-smoke" not in checks.stack.inside("web", "ls", "/var/app/media")

    def test_maintenance_is_no_failure(self, checks: Checks) -> None:
        assert checks.stack.engine("maintenance", "on").returncode == 0
        try:
            assert checks.failed() == {}
        finally:
            assert checks.stack.engine("maintenance", "off").returncode == 0
        found = checks.results["hosts"]["localhost"]["checks"]
        outcomes = {one["subject"]: (one["outcome"], one["reason"]) for one in found if one["check"] == "request"}
        assert outcomes["ready"] == ("passed", "")
        for name in ("landing page", "API refuses strangers", "admin greets a colleague", "API knows who asks"):
            assert outcomes[name] == ("not run", "maintenance is on")

    def test_stopped_container(self, checks: Checks) -> None:
        container = checks.stack.container("worker")
        docker("stop", "--time", "1", container)
        try:
            run = checks.playbook(smoke_gate=True)
        finally:
            docker("start", container)
            wait_healthy(container)

        assert run.code != 0
        assert f"localhost: service is healthy: worker: {container} is exited" in run.output
        assert "Next: make smoke ENV=prod INVENTORY=" in run.output
        assert "worker" in checks.results["hosts"]["localhost"]["logs"]

    def test_image_whose_name_was_given_to_another(self, checks: Checks) -> None:
        inspected = json.loads(docker("inspect", checks.stack.container("web")))[0]
        name, image = inspected["Config"]["Image"], inspected["Image"]
        redis = json.loads(docker("inspect", checks.stack.container("redis")))[0]["Image"]
        docker("tag", redis, name)
        try:
            failed = checks.failed("test_containers.py", "-m", "gate")
        finally:
            docker("tag", image, name)

        assert set(failed) == {"service runs the expected image: web", "service runs the expected image: worker"}

    def test_header_that_is_gone(self, checks: Checks) -> None:
        path = checks.stack.root / "shared/nginx/conf/current/snippets/headers.conf"
        text = path.read_text()
        with changed_nginx(checks.stack, path, text.replace("add_header X-Frame-Options DENY always;\n", "")):
            failed = checks.failed("-m", "gate")

        assert set(failed) == {"header stands once: X-Frame-Options", "nginx has the files that were rendered here"}
        assert failed["header stands once: X-Frame-Options"] == "/ has none, not 'DENY'"

    def test_old_tls_and_unknown_names_let_in(self, checks: Checks) -> None:
        folder = checks.stack.root / "shared/nginx/conf/current"
        text = (folder / "snippets/tls.conf").read_text()
        weak = text.replace("ssl_protocols ", "ssl_protocols TLSv1.1 ").replace(
            "ssl_ciphers ", "ssl_ciphers ALL:@SECLEVEL=0:"
        )
        with changed_nginx(checks.stack, folder / "snippets/tls.conf", weak):
            failed = checks.failed("test_https.py", "-m", "gate")
        assert set(failed) == {"tls is spoken as rendered: TLSv1.1"}

        text = (folder / "conf.d/default.conf").read_text()
        with changed_nginx(checks.stack, folder / "conf.d/default.conf", text.replace("return 444", "return 200")):
            failed = checks.failed("test_https.py", "-m", "gate")
        assert set(failed) == {"unknown name is refused"}

    def test_static_file_that_is_missing(self, checks: Checks) -> None:
        manifest = json.loads(checks.stack.inside("web", "cat", "/var/app/static/staticfiles.json"))
        name = max(manifest["paths"].values())
        checks.stack.inside("web", "mv", f"/var/app/static/{name}", "/var/app/static/hidden")
        try:
            failed = checks.failed("test_site.py", "-k", "static")
        finally:
            checks.stack.inside("web", "mv", "/var/app/static/hidden", f"/var/app/static/{name}")

        assert set(failed) == {"every static file is served"}
        assert f"/static/{name} (404)" in failed["every static file is served"]

    def test_port_and_capability_that_nobody_rendered(self, checks: Checks, monkeypatch: pytest.MonkeyPatch) -> None:
        stack = checks.stack
        monkeypatch.setenv("KIT_BUNDLE", str(stack.root))
        override = checks.scratch / "override.yml"
        more = {"ports": ["127.0.0.1:0:6379"], "cap_add": ["NET_ADMIN"]}
        override.write_text(yaml.safe_dump({"services": {"redis": more}}))
        docker(
            *("compose", "--project-name", stack.project, "--project-directory", str(stack.root / "shared/compose")),
            *("--file", str(stack.root / "docker-compose.prod.yml"), "--file", str(override)),
            *("up", "--detach", "--no-deps", "--no-build", "--pull", "never", "redis"),
        )
        wait_healthy(stack.container("redis"))

        failed = checks.failed("test_containers.py")

        wanted = {"service publishes what was rendered: redis", "CIS 5.4 capabilities: redis"}
        assert wanted <= set(failed)
        assert {name.rpartition(": ")[2] for name in failed} == {"redis"}


@contextmanager
def changed_nginx(stack: ProdStack, path: Path, text: str) -> Iterator[None]:
    """Have nginx use a changed file, and the earlier one again afterwards."""
    before = path.read_text()
    assert text != before
    path.write_text(text)
    try:
        reload(stack)
        yield
    finally:
        path.write_text(before)
        reload(stack)


def reload(stack: ProdStack) -> None:
    """Have nginx read its files, and wait until its old workers take no more connections."""

    def workers() -> set[str]:
        lines = docker("top", stack.container("nginx"), "-eo", "pid,args").splitlines()
        return {line.split()[0] for line in lines if line.rstrip().endswith("worker process")}

    before = workers()
    docker("kill", "--signal", "HUP", stack.container("nginx"))
    end = time.monotonic() + 20
    while workers() & before and time.monotonic() < end:
        time.sleep(0.1)


def wait_healthy(container: str) -> None:
    """Wait until Docker calls a container healthy."""
    end = time.monotonic() + 60
    while docker("inspect", "--format", "{{.State.Health.Status}}", container).strip() != "healthy":
        assert time.monotonic() < end, f"{container} is not healthy after a minute"
        time.sleep(0.3)
