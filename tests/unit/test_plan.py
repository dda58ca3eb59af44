"""The parts of a plan that need no host: differences without secrets, pending migrations, the way to a host."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from kit_control import remote_hosts
from kit_control.errors import KitError
from kit_engine import report
from kit_engine.image_migrations import Migration, pending
from kit_engine.plan_files import differences
from support.kit import ROOT


def env(text: str) -> dict[str, bytes]:
    """A bundle of one .env file."""
    return {".env.prod": text.encode()}


class TestDifferences:
    """Of two bundles."""

    def test_same_content_is_no_difference(self) -> None:
        assert differences(env("A=1\n"), env("A=1\n"), []) == []

    def test_first_deploy_names_files_only(self) -> None:
        (told,) = differences({}, env('KEY="abcdef"\n'), [])
        assert (told.change, told.lines) == ("added", ())

    def test_remarks_of_variables_are_none(self) -> None:
        (told,) = differences(env("# old\nA=1\n"), env("# new\nA=1\n"), [])
        assert told.lines == ()

    @pytest.mark.parametrize("name", ["PLAIN_NAME", "EMAIL_PASSWORD", "API_TOKEN", "SENTRY_DSN", "AWS_KEY"])
    def test_secret_is_named_and_never_shown(self, name: str) -> None:
        (told,) = differences(env(f'{name}="before-1"\n'), env(f'{name}="after-2"\n'), ["PLAIN_NAME"])
        assert told.lines == (f" {name}: changed (secret)",)

    def test_secret_inside_another_value_is_masked(self) -> None:
        old = env('PW="p\\"ss-1234"\nURL="redis://:p\\"ss-1234@a"\n')
        new = env('PW="n\\\\w-56789"\nURL="redis://:n\\\\w-56789@a"\n')
        (told,) = differences(old, new, ["PW"])
        assert told.lines == (" PW: changed (secret)", '-URL="redis://:***@a"', '+URL="redis://:***@a"')

    def test_content_of_secret_files_is_masked_elsewhere(self) -> None:
        old = {"secrets/a": b"first-value", "nginx/x.conf": b"a\n"}
        new = {"secrets/a": b"other-value", "nginx/x.conf": b"a\nset $p first-value; set $q other-value;\n"}
        nginx, secret = differences(old, new, [])
        assert nginx.lines[-1] == "+set $p ***; set $q ***;"
        assert (secret.change, secret.lines) == ("changed", ())

    def test_source_is_named_only(self) -> None:
        (told,) = differences({"source/a.py": b"1", "stack.json": b""}, {"source/a.py": b"2", "stack.json": b""}, [])
        assert (told.path, told.lines) == ("source/a.py", ())

    def test_long_difference_is_cut(self) -> None:
        new = "".join(f"A{number}=1\n" for number in range(100))
        (told,) = differences(env(""), env(new), [])
        assert len(told.lines) == 61
        assert told.lines[-1] == " … 40 more lines"


class TestPending:
    """Migrations that Django would apply."""

    SQUASHED = (
        Migration("a.0001"),
        Migration("a.0002"),
        Migration("a.0001_squashed_0002", ("a.0001", "a.0002")),
        Migration("a.0003"),
    )

    @pytest.mark.parametrize(
        ("applied", "wanted"),
        [
            ([], ["a.0001_squashed_0002", "a.0003"]),
            (["a.0001"], ["a.0002", "a.0003"]),
            (["a.0001", "a.0002"], ["a.0003"]),
            (["a.0001_squashed_0002", "a.0003"], []),
            (["a.0001", "a.0002", "a.0003", "gone.0001"], []),
        ],
    )
    def test_squashed(self, applied: list[str], wanted: list[str]) -> None:
        assert pending(self.SQUASHED, applied) == wanted


class TestHosts:
    """The way to a host, read as Ansible reads it."""

    def inventory(self, folder: Path, **hosts: dict[str, object]) -> str:
        """Write an inventory of group app."""
        path = folder / "hosts.yml"
        path.write_text(yaml.safe_dump({"app": {"hosts": hosts}}))
        return str(path)

    def test_every_way_of_saying_it_reaches_ssh(self, tmp_path: Path) -> None:
        path = self.inventory(
            tmp_path,
            web1={
                "ansible_host": "{{ '192.0.2' }}.1", "ansible_port": 2222, "ansible_user": "me",
                "ansible_ssh_private_key_file": "~/key", "ansible_ssh_common_args": "-J 'jump host'",
                "deploy_root": "/srv/mine",
            },
            web2=None or {},
        )  # fmt: skip

        one, two = remote_hosts.load(ROOT, "prod", path)

        words = one.command(["docker-manage.sh", "a b"], terminal=True)
        for wanted in ("Port=2222", "User=me", f"IdentityFile={Path('~/key').expanduser()}", "jump host"):
            assert wanted in words
        assert words[0] == "ssh"
        assert "ControlPersist=60s" in words
        assert words[-3:] == ["-t", "192.0.2.1", shlex.join(["docker-manage.sh", "a b"])]
        assert (one.root, two.root, two.address) == ("/srv/mine", "/srv/email_" + "camp" + "aign", "web2")
        assert not any("StrictHostKeyChecking=no" in word for word in words)

    def test_no_host_and_no_such_inventory(self, tmp_path: Path) -> None:
        with pytest.raises(KitError, match="names no host"):
            remote_hosts.load(ROOT, "prod")
        with pytest.raises(KitError, match="There is no inventory"):
            remote_hosts.load(ROOT, "prod", str(tmp_path / "nowhere.yml"))

    def test_several_hosts_want_a_name(self, tmp_path: Path) -> None:
        hosts = remote_hosts.load(ROOT, "prod", self.inventory(tmp_path, web1={}, web2={}))
        assert remote_hosts.choose(hosts, "web2", "logs").name == "web2"
        with pytest.raises(KitError, match="2 hosts: web1, web2"):
            remote_hosts.choose(hosts, "", "logs")
        with pytest.raises(KitError, match="no host 'web3'"):
            remote_hosts.choose(hosts, "web3", "logs")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (47 * 3600, "47 h"), (172800, "2 days")],
)
def test_age_is_told_in_one_unit(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text
