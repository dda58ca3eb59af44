"""What a user can get wrong before a host is touched: one clear message, and nothing is written."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from kit_control import manifest
from kit_control.context import build
from kit_control.errors import KitError
from support.certificates import authorities, issue
from support.inventory import problems_of, settings_of
from support.kit import EXAMPLE, FIXTURE, IMAGES, ROOT, copy_inventory, playbook, written_below

GOOD_KEY = "k3y-Z" * 12
OFFSITE = {"RESTIC_PASSWORD": "long-enough-for-a-test"}
VALID: dict[str, Any] = {
    "project_manifest": str(FIXTURE),
    "release_bundle_images": IMAGES,
    "app_domains": ["www.example.com"],
    "vault_secrets": {"KEY": GOOD_KEY, "PGPASSWORD": "pa55word-of-a-test-9"},
}
BAD_PINGS = ("ping.example.com/0a1b", "ftp://ping.example.com", "https:///0a1b", "https://ping.example.com:port/0a1b",
             "https://me:canary@ping.example.com/x", "https://ping.example.com/\u00fc",
             "https://ping.example.com/0a 1b", "https://ping.example.com/0a1b\n")  # fmt: skip

MISTAKES: list[tuple[dict[str, Any], list[str]]] = [
    ({"vault_secrets": {}}, ["secret KEY has no value", "secret PGPASSWORD has no value", "make secrets ENV=prod"]),
    ({"vault_secrets": {"KEY": "changeme"}}, ["KEY still holds a placeholder", "has 8 characters"]),
    ({"vault_secrets": {"KEY": GOOD_KEY[:49]}}, ["KEY has 49 characters, at least 50"]),
    ({"vault_secrets": {"KEY": "django-insecure-" + GOOD_KEY}}, ["KEY starts with 'django-insecure-'"]),
    ({"vault_secrets": {"TYPO": "x"}}, ["vault_secrets names TYPO"]),
    ({"app_domains": []}, ["no host name of the site", "app_domains: [www.example.com]"]),
    ({"release_bundle_debug": True}, ["release_bundle_debug is true in production"]),
    ({"release_bundle_web_server": "runserver"}, ["runserver, which is for development"]),
    ({"app_variables": {"GUESTBOOK_DEBUG": True}}, ["must not name GUESTBOOK_DEBUG; set release_bundle_debug"]),
    ({"app_variables": {"HOSTS": ""}}, ["must not name HOSTS; set app_domains"]),
    ({"app_domains": ["https://www.example.com; return 200"]}, ["is no host name; write such as www.example.com"]),
    ({"vault_secrets": {"KEY": "ab" * 30}}, ["KEY has 2 different characters"]),
    (
        {"release_bundle_database": "external", "vault_secrets": {"KEY": GOOD_KEY}},
        ["secret PGPASSWORD (Password of that role.) has no value; write it under vault_secrets"],
    ),
    (
        {"release_bundle_database": "external", "release_bundle_database_sslmode": "verify-full"},
        ["verify-full; write the certificate of who signed"],
    ),
    (
        {"release_bundle_database": "external", "release_bundle_database_host": "db\nsslmode=disable"},
        ["release_bundle_database_host, _name and _user are one line each"],
    ),
    ({"app_variables": {"COLOUR": "red"}}, ["app_variables names COLOUR", "known: GUESTBOOK_DEBUG, HOSTS"]),
    ({"app_variables": {"KEY": GOOD_KEY}}, ["KEY is a secret", "vault_secrets"]),
    ({"app_variables": {"PGHOST": "a\0b"}}, ["PGHOST holds a NUL character"]),
    ({"release_bundle_https_port": 70000}, ["is 70000; allowed: 1 to 65535"]),
    ({"release_bundle_https_port": 80}, ["port 80 is used twice"]),
    ({"release_bundle_images": {"nginx": "Nginx latest"}}, ["'Nginx latest' is no name of an image"]),
    (
        {"release_bundle_images": {"postgres": "docker.io/library/postgres:18.1-trixie"}},
        [
            "names docker.io/library/postgres:18.1-trixie for postgres",
            "lost with the container",
            "postgres:17.6-trixie",
        ],
    ),
    ({"release_bundle_images": {"postgres": "mirror:5000/postgis/postgis:19-3.6"}}, ["names mirror:5000/postgis"]),
    ({"release_bundle_processes": ["mailer"]}, ["release_bundle_processes names mailer", "the manifest has: none"]),
    ({"release_bundle_edge": "none", "release_bundle_web_replicas": 3}, ["3 web replicas need nginx"]),
    ({"backup_offsite_repository": "sftp:a@b:/c"}, ["vault_backup_offsite has no RESTIC_PASSWORD of 12 characters"]),
    (
        {"backup_offsite_repository": "sftp:a@b:/c", "vault_backup_offsite": {"RESTIC_PASSWORD": "short"}},
        ["no RESTIC_PASS"],
    ),
    ({"backup_offsite_repository": "vault.example.com", "vault_backup_offsite": OFFSITE}, ["is no place of restic's"]),
    (
        {"backup_offsite_repository": "rest:https://me:canary@host/x", "vault_backup_offsite": OFFSITE},
        ["backup_offsite_repository holds a password"],
    ),
    (
        {"release_bundle_database": "external", "release_bundle_database_name": "postgres"},
        ["release_bundle_database_name is 'postgres': postgres is PostgreSQL's own"],
    ),
    (
        {"release_bundle_database_name": "x" * 41},
        ["its name has 41 bytes, and at most 40 leave room", "write the name of another database"],
    ),
    ({"backup_jobs": -1}, ["backup_jobs is -1; allowed: 0", "to 32"]),
    ({"backup_jobs": 33}, ["backup_jobs is 33; allowed: 0"]),
    *(({"backup_ping_url": url}, [f"backup_ping_url {url!r} is no address", "such as https://"]) for url in BAD_PINGS),
    ({"backup_local_copy": False}, ["backup_local_copy is false, and no backup_offsite_repository says where"]),
    ({"vault_backup_offsite": OFFSITE}, ["no backup_offsite_repository says where copies go"]),
    (
        {"backup_offsite_repository": "/mnt/x", "vault_backup_offsite": OFFSITE, "backup_offsite_check_parts": 0},
        ["backup_offsite_check_parts is at least 1"],
    ),
]


@pytest.mark.parametrize("url", ["https://ping.example.com/0a1b-2c", "http://[::1]:8080/x?up=1", "http://watch_er", ""])
def test_an_address_that_can_be_asked_is_taken(url: str) -> None:
    assert not problems_of(FIXTURE, "prod", {**VALID, "backup_ping_url": url})


def test_a_database_whose_backups_are_a_providers_may_have_any_name() -> None:
    named = {"release_bundle_database": "external", "release_bundle_database_name": "postgres"}
    assert problems_of(FIXTURE, "prod", {**VALID, **named})
    without = {"backup_schedule": "", "backup_drill_schedule": ""}
    assert not problems_of(FIXTURE, "prod", {**VALID, **named, **without})


@pytest.mark.parametrize(("changes", "words"), MISTAKES, ids=[words[0] for _changes, words in MISTAKES])
def test_a_mistake_in_the_inventory_is_named(changes: dict[str, Any], words: list[str]) -> None:
    found = "\n".join(problems_of(FIXTURE, "prod", {**VALID, **changes}))
    for word in words:
        assert word in found
    assert GOOD_KEY not in found


EXAMPLE_MISTAKES: list[tuple[dict[str, Any], list[str]]] = [
    ({"vault_secrets": {"SECRET_KEY": "django-insecure-" + GOOD_KEY}}, ["SECRET_KEY starts with 'django-insecure-'"]),
    ({"vault_secrets": {"SECRET_KEY": GOOD_KEY[:49]}}, ["SECRET_KEY has 49 characters, at least 50"]),
    ({"app_variables": {"DEBUG": True}}, ["must not name DEBUG"]),
    ({"app_variables": {"DJANGO_ENV": "local"}}, ["must not name DJANGO_ENV"]),
    ({"app_variables": {"ALLOWED_HOSTS": []}}, ["must not name ALLOWED_HOSTS"]),
    ({"app_variables": {"EMAIL_HOST": ""}}, ["EMAIL_HOST (Host name of the SMTP server.) has no value"]),
    ({"app_variables": {"EMAIL_USE_TLS": "perhaps"}}, ["EMAIL_USE_TLS", "'perhaps' is not true or false"]),
]


@pytest.mark.parametrize(("changes", "words"), EXAMPLE_MISTAKES, ids=[words[0] for _changes, words in EXAMPLE_MISTAKES])
def test_a_mistake_for_the_shipped_project_is_named(changes: dict[str, Any], words: list[str]) -> None:
    found = "\n".join(problems_of(EXAMPLE, "prod", {**VALID, "vault_secrets": {}, **changes}))
    for word in words:
        assert word in found
    assert GOOD_KEY[:49] not in found


def test_a_wildcard_domain_is_written_as_each_reader_wants_it() -> None:
    stack = build(
        manifest.load(FIXTURE), settings_of("prod", {**VALID, "app_domains": ["*.example.com"]}), "prod", IMAGES
    )
    assert stack.environment["HOSTS"] == ".example.com"
    assert stack.context["nginx"]["server_names"] == ["*.example.com"]
    assert stack.environment["KIT_HEALTH_HOST"] == "health.example.com"


def test_a_good_inventory_has_no_mistake() -> None:
    assert problems_of(FIXTURE, "prod", VALID) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"release_bundle_images": {"postgres": "docker.io/library/postgres:17.6-trixie"}},
        {"release_bundle_images": {"postgres": "registry.test/our/postgres:20261129"}},
        {"release_bundle_images": {"postgres": "kit/postgres:registry-19af00000000"}},
        # Only its client is used.
        {
            "release_bundle_images": {"postgres": "docker.io/library/postgres:18.1-trixie"},
            "release_bundle_database": "external",
            "vault_secrets": {**VALID["vault_secrets"], "PGPASSWORD": GOOD_KEY},
        },
    ],
)
def test_a_postgresql_whose_data_lie_in_the_volume_is_fine(changes: dict[str, Any]) -> None:
    assert [one for one in problems_of(FIXTURE, "prod", {**VALID, **changes}) if "postgres" in one] == []


def test_an_image_that_nobody_gave_is_named() -> None:
    with pytest.raises(KitError, match="No reference of the image nginx was given"):
        build(manifest.load(FIXTURE), settings_of("prod", VALID), "prod", {"app": "app:1", "postgres": "postgres:16"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"release_bundle_edge": "apache"}, ["release_bundle_edge", "nginx, none", "apache"]),
        ({"release_bundle_limits": {"web": {"memory": "1g"}}}, ["release_bundle_limits", "cpus, pids"]),
        ({"release_bundle_web_port": "eight"}, ["release_bundle_web_port", "eight"]),
    ],
)
def test_an_input_of_the_wrong_kind_is_named(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(KitError) as caught:
        settings_of("prod", {**VALID, **changes})
    for word in words:
        assert word in str(caught.value)


def deploy_wrongly(tmp_path: Path, changes: dict[str, Any], env: str = "prod") -> str:
    """Deploy with mistakes; it has to fail without having written anything. Returns the output."""
    hosts = tmp_path / "hosts.yml"
    # An address of the documentation's own (RFC 5737): nobody answers there, and nobody may be asked.
    hosts.write_text("app: {hosts: {web1: {ansible_host: 192.0.2.10}}}\n")
    run = playbook("deploy", env, {**VALID, **changes}, "-i", str(hosts), scratch=tmp_path)
    assert run.code != 0, run.output
    assert "unreachable=1" not in run.output
    assert written_below(tmp_path / "build") == set()
    return run.output


def test_a_deploy_names_every_mistake_at_once_and_writes_nothing(tmp_path: Path) -> None:
    output = deploy_wrongly(tmp_path, {"app_domains": [], "vault_secrets": {}, "release_bundle_https_port": 0})
    for word in ("KEY has no value", "PGPASSWORD has no value", "app_domains", "is 0; allowed"):
        assert word in output


def test_a_deploy_without_a_host_says_how_to_name_one(tmp_path: Path) -> None:
    run = playbook("deploy", "prod", VALID, scratch=tmp_path)
    assert run.code != 0
    assert "names no host" in run.output
    assert "INVENTORY=path/to/hosts.yml" in run.output


def test_one_host_under_two_names_is_refused(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.yml"
    hosts.write_text("app: {hosts: {web1: {ansible_host: 192.0.2.10}, web2: {ansible_host: 192.0.2.10}}}\n")
    run = playbook("deploy", "prod", VALID, "-i", str(hosts), scratch=tmp_path)
    assert run.code != 0
    assert "web1 and web2 are one host: 192.0.2.10 port 22" in run.output
    assert "unreachable=1" not in run.output


def test_inputs_of_all_roles_are_judged_before_a_host_is_touched(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.yml"
    hosts.write_text("app: {hosts: {web1: {ansible_host: 192.0.2.10}}}\n")
    given = {**VALID, "vault_secrets": {"KEY": GOOD_KEY, "PGPASSWORD": GOOD_KEY}, "smoke_timeout_seconds": "soon"}
    run = playbook("deploy", "prod", given, "-i", str(hosts), scratch=tmp_path)
    assert run.code != 0
    assert "smoke_timeout_seconds" in run.output
    assert "unreachable=1" not in run.output


def test_make_names_the_environments_that_there_are() -> None:
    done = subprocess.run(["make", "deploy", "ENV=prdo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "There is no environment 'prdo'; there are: dev, local, prod" in done.stderr


def test_a_vault_without_its_password_is_told(tmp_path: Path) -> None:
    copy_inventory("prod", tmp_path / "inventories/copy")
    (tmp_path / "inventories/copy/group_vars/all/vault.yml").write_text("$ANSIBLE_VAULT;1.1;AES256\n")
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    clean = {name: value for name, value in os.environ.items() if name != "ANSIBLE_VAULT_PASSWORD_FILE"}
    words = ["make", "render", "ENV=copy"]
    done = subprocess.run(words, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "its password is not here: no .vault/copy" in done.stderr


def test_a_deploy_without_a_manifest_says_how_to_name_one(tmp_path: Path) -> None:
    output = deploy_wrongly(tmp_path, {"project_manifest": str(tmp_path / "gone.yml")})
    assert "There is no project manifest" in output
    assert "MANIFEST=" in output


def test_an_inventory_that_is_no_environment_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("app:\n")
    run = playbook("deploy", str(tmp_path / "hosts.yml"), VALID, scratch=tmp_path)
    assert run.code != 0
    assert "is not the folder of an environment" in run.output


@pytest.mark.parametrize("env", ["dev", "prod"])
def test_rendering_needs_no_host_and_no_secret(tmp_path: Path, env: str) -> None:
    run = playbook("render", env, {"project_manifest": str(FIXTURE)}, scratch=tmp_path)
    assert run.code == 0, run.output
    assert "No value for" in run.output
    assert "__MISSING__PGPASSWORD" in (tmp_path / f"build/{env}/secrets/database_password").read_text()


def test_a_copy_of_prod_is_an_environment_with_no_other_edit(tmp_path: Path) -> None:
    copy_inventory("prod", tmp_path / "staging")
    run = playbook("render", str(tmp_path / "staging"), VALID, scratch=tmp_path)
    assert run.code == 0, run.output
    compose = (tmp_path / "build/staging/docker-compose.staging.yml").read_text()
    assert "postgres_data_staging" in compose
    assert "name: guestbook-staging" in compose


def test_a_second_render_changes_nothing(tmp_path: Path) -> None:
    first = playbook("render", "prod", VALID, scratch=tmp_path)
    again = playbook("render", "prod", VALID, scratch=tmp_path)
    assert "changed=1" in first.output
    assert "changed=0" in again.output


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    run = playbook("render", "prod", VALID, "--check", scratch=tmp_path)
    assert run.code == 0, run.output
    assert "changed=1" in run.output
    assert written_below(tmp_path / "build") == set()


def test_a_key_of_another_certificate_is_refused_before_a_host_is_touched(tmp_path: Path) -> None:
    authority = authorities()
    good, other = (issue(["www.example.com"], authority) for _ in range(2))
    files = {"certificate_file": good.chain, "key_file": other.key_pem, "ca_file": authority.root}
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    output = deploy_wrongly(
        tmp_path, {"tls_mode": "provided", **{f"tls_{name}": str(tmp_path / name) for name in files}}
    )

    assert "Nothing was changed; the certificate must be mended first" in output
    assert f"{tmp_path}/key_file is not the key of {tmp_path}/certificate_file" in output
    assert "openssl pkey -in" in output
    assert "make deploy ENV=prod" in output
    assert "PRIVATE KEY" not in output
