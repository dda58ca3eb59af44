"""The rendered prod environment on a real engine: what the hardened containers do, seen from outside."""

from __future__ import annotations

import json
import re
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kit_control.settings import APP_UID
from support.engine_stack import docker
from support.prod_stack import DOMAIN, SECRETS, ProdStack, bring_up, remove

pytestmark = pytest.mark.engine

# Quotes, spaces, dollars, hashes, backslashes, newlines, emoji, equals signs; and 4 KB of them.
TRAP = "a 'b' \"c\" $HOME ${X} # d\\n \\ e=f\n🐘 =" + "x$'\"# \\" * 600


@pytest.fixture(scope="module")
def prod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProdStack]:
    """The stack, up; removed with its volumes whatever happens."""
    scratch = tmp_path_factory.mktemp("prod")
    try:
        yield bring_up(scratch, {"EMAIL_HOST_USER": TRAP})
    finally:
        remove()


def inspect(stack: ProdStack, service: str) -> dict[str, Any]:
    """What Docker says of a service's container."""
    told: dict[str, Any] = json.loads(docker("inspect", stack.container(service)))[0]
    return told


def test_site_is_ready_through_nginx(prod: ProdStack) -> None:
    answer, body = prod.ask("/health/ready")
    assert answer.status == 200
    assert json.loads(body)["checks"] == {"database": "ok", "cache": "ok", "migrations": "ok"}


def test_a_value_reaches_the_django_process_byte_for_byte(prod: ProdStack) -> None:
    script = "from django.conf import settings; print(settings.EMAIL_HOST_USER.encode().hex())"
    assert prod.inside("web", "python", "manage.py", "shell", "-v", "0", "-c", script).strip() == TRAP.encode().hex()


def test_django_finds_nothing_to_complain_of(prod: ProdStack) -> None:
    told = prod.inside("web", "python", "manage.py", "check", "--deploy", "--fail-level", "WARNING")
    assert "System check identified no issues" in told


def test_gunicorn_starts_as_many_workers_as_told_and_without_complaint(prod: ProdStack) -> None:
    log = prod.log("web")
    assert log.count("Booting worker with pid") == 4
    assert "error" not in log.lower()


@pytest.mark.parametrize("service", ["nginx", "web", "worker", "db", "redis"])
def test_nobody_may_write_outside_what_is_theirs(prod: ProdStack, service: str) -> None:
    told = docker("exec", prod.container(service), "sh", "-c", "touch /x /usr/x /app/x 2>&1; true")
    assert told.count("Read-only file system") >= 2


@pytest.mark.parametrize(
    ("service", "uid"), [("nginx", 101), ("web", APP_UID), ("worker", APP_UID), ("db", 999), ("redis", 999)]
)
def test_servers_run_as_nobody_special_and_without_capabilities(prod: ProdStack, service: str, uid: int) -> None:
    script = "grep -hE '^(Name|Uid|CapEff|NoNewPrivs):' /proc/[0-9]*/status"
    told = docker("exec", "--user", "0", prod.container(service), "sh", "-c", script)
    processes = [dict(line.split(":\t") for line in part.splitlines()) for part in re.findall(r"(?:.+\n){4}", told)]
    # A health check that just begins is still Docker's own process.
    passing = ("sh", "grep", "docker-init", "tini", "runc:[2:INIT]")
    servers = [one for one in processes if one["Name"] not in passing]
    assert servers
    for one in servers:
        assert one["Uid"].split()[1] == str(uid), one
        assert int(one["CapEff"], 16) == 0, one
        assert one["NoNewPrivs"] == "1", one


def test_no_secret_stands_where_others_can_look(prod: ProdStack) -> None:
    services = ["nginx", "web", "worker", "db", "redis"]
    seen = json.dumps([inspect(prod, service) for service in services])
    for service in services:
        seen += docker("top", prod.container(service)) + prod.log(service)
    seen += docker("image", "inspect", inspect(prod, "web")["Config"]["Image"])
    for value in SECRETS.values():
        assert value not in seen


def test_data_services_have_no_way_out(prod: ProdStack) -> None:
    networks = docker(
        "network", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={prod.project}"
    ).split()
    internal = {
        one["Name"]: one["Internal"] for name in networks for one in json.loads(docker("network", "inspect", name))
    }
    for service in ("db", "redis"):
        assert [internal[name] for name in inspect(prod, service)["NetworkSettings"]["Networks"]] == [True]


def test_plain_http_leads_to_https_and_serves_challenges(prod: ProdStack) -> None:
    answer, _ = prod.ask_plain("/admin/?x=1")
    assert (answer.status, answer.headers["Location"]) == (301, f"https://{DOMAIN}:{prod.https_port}/admin/?x=1")
    answer, body = prod.ask_plain("/.well-known/acme-challenge/token")
    assert (answer.status, body) == (200, b"proof")


def test_unknown_names_get_no_answer_and_no_certificate(prod: ProdStack) -> None:
    with pytest.raises(Exception, match="Remote end closed"):
        prod.ask_plain("/", host="other.example.org")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", prod.https_port), timeout=10) as plain,
        pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"),
    ):
        context.wrap_socket(plain, server_hostname="other.example.org")


def test_old_tls_is_refused(prod: ProdStack) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", prod.https_port), timeout=10) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname=DOMAIN)


@pytest.mark.parametrize("path", ["/", "/health/live", "/nowhere", "/static/nowhere.css", "/media/nowhere"])
def test_security_headers_stand_once_on_every_answer(prod: ProdStack, path: str) -> None:
    answer, _ = prod.ask(path)
    for name, value in {
        "Strict-Transport-Security": "max-age=63072000; includeSubDomains",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "strict-origin-when-cross-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
    }.items():
        assert answer.headers.get_all(name) == [value]
    assert len(answer.headers.get_all("Content-Security-Policy") or []) == 1
    assert "1." not in answer.headers["Server"]


def test_every_static_file_of_the_manifest_is_served_and_kept_for_long(prod: ProdStack) -> None:
    manifest = json.loads(prod.inside("web", "cat", "/var/app/static/staticfiles.json"))
    assert len(manifest["paths"]) > 100
    for hashed in manifest["paths"].values():
        answer, _ = prod.ask(f"/static/{hashed}")
        assert answer.status == 200, hashed
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.headers["Server"] == "nginx"


def test_a_request_keeps_one_id_from_nginx_to_the_log(prod: ProdStack) -> None:
    answer, _ = prod.ask("/nowhere-in-particular", X_Request_ID="forged")
    told = answer.headers["X-Request-ID"]
    assert re.fullmatch("[0-9a-f]{32}", told)
    assert answer.headers.get_all("X-Request-ID") == [told]
    # Its access log is written together, at most a second later.
    assert wait_until(lambda: told in prod.log("nginx"), 5)
    written = (prod.root / "shared/logs/app.log").read_text()
    assert told in written
    assert "forged" not in written


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    """Look until something holds, or the time is up."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def test_clients_cannot_forge_where_they_come_from(prod: ProdStack) -> None:
    body = json.dumps({"username": "a", "password": "b"})
    statuses = []
    for number in range(40):
        answer, _ = prod.ask(
            "/api/token/", method="POST", body=body, Content_Type="application/json", X_Forwarded_For=f"10.0.0.{number}"
        )
        statuses.append(answer.status)
    assert statuses[0] == 401
    assert statuses[-1] == 429


def test_without_its_database_the_site_lives_and_is_not_ready(prod: ProdStack) -> None:
    docker("stop", prod.container("db"))
    try:
        assert prod.ask("/health/live")[0].status == 200
        assert prod.ask("/health/ready")[0].status == 503
    finally:
        docker("start", prod.container("db"))
    assert prod.engine("up").returncode == 0
    assert prod.ask("/health/ready")[0].status == 200


def stay(prod: ProdStack, path: str) -> str:
    """Ask again and again by one connection, up to the answer that tells of its end."""
    connection = prod.connect()
    try:
        while True:
            connection.request("GET", path, headers={"Host": DOMAIN})
            answer = connection.getresponse()
            answer.read()
            if answer.will_close:
                return answer.headers["Connection"]
            time.sleep(0.05)
            if select.select([connection.sock], [], [], 0)[0]:
                return "without a word"
    finally:
        connection.close()


def test_nginx_takes_other_files_by_reload_and_never_bad_ones(prod: ProdStack) -> None:
    path = prod.root / "nginx/snippets/headers.conf"
    before, container = path.read_text(), inspect(prod, "nginx")["Id"]
    path.write_text(before + "add_header X-Kit-Test one always;\n")
    with ThreadPoolExecutor(1) as aside:
        visitor = aside.submit(stay, prod, "/health/live")
        assert prod.engine("up").returncode == 0
        # The end of a connection is announced with an answer: at a reload nginx closes what is idle without a word.
        assert visitor.result(timeout=60) == "close"
    assert prod.ask("/nowhere")[0].headers["X-Kit-Test"] == "one"
    assert prod.ask("/health/live")[0].headers.get("Connection") != "close"

    path.write_text(before + "no_such_directive;\n")
    refused = prod.engine("up")
    assert refused.returncode != 0
    assert "nginx refuses the release's configuration" in refused.stderr
    assert "no_such_directive" in refused.stderr
    assert prod.ask("/nowhere")[0].headers["X-Kit-Test"] == "one"

    path.write_text(before)
    assert prod.engine("up").returncode == 0
    assert "X-Kit-Test" not in prod.ask("/nowhere")[0].headers
    assert inspect(prod, "nginx")["Id"] == container


def test_stop_is_clean_for_database_and_cache(prod: ProdStack) -> None:
    prod.ask("/")
    assert prod.engine("down").returncode == 0
    assert prod.engine("up").returncode == 0
    assert "database system was shut down at" in prod.log("db")
    assert "was not properly shut down" not in prod.log("db")
