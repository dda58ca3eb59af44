"""Which ports are taken, by what Docker and the kernel say, and whether they stand in the way."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from kit_engine import ports

EVERY = "0.0.0.0"  # noqa: S104 - read, not bound
TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 3
"""
TABLE_6 = """\
  sl  local_address                         remote_address                        st
   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0 0 0 0 0 4
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", set()),
        ("5432/tcp", set()),
        ("0.0.0.0:8000->8000/tcp, :::8000->8000/tcp", {(EVERY, 8000), ("::", 8000)}),
        ("127.0.0.1:8000-8001->80-81/tcp, 5432/tcp", {("127.0.0.1", 8000), ("127.0.0.1", 8001)}),
        ("[::1]:53->53/tcp, 0.0.0.0:53->53/udp", {("::1", 53)}),
    ],
)
def test_tcp_ports_of_the_host_are_read(text: str, expected: set[tuple[str, int]]) -> None:
    assert ports.host_ports(text) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        (EVERY, "127.0.0.1", True),
        ("::", "127.0.0.1", True),
        ("192.0.2.7", "127.0.0.1", False),
        ("192.0.2.7", "", True),
    ],
)
def test_another_address_does_not_stand_in_the_way(one: str, other: str, expected: bool) -> None:
    assert ports.same_address(one, other) is expected


def test_listening_sockets_are_read_with_their_addresses(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(TABLE)
    (tmp_path / "net/tcp6").write_text(TABLE_6)
    assert list(ports.listening(tmp_path)) == [("127.0.0.1", 8080, "1"), (EVERY, 22, "2"), ("::1", 80, "4")]


def test_a_port_is_held_by_the_process_with_its_socket(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(TABLE)
    (tmp_path / "812/fd").mkdir(parents=True)
    (tmp_path / "812/comm").write_text("nginx\n")
    (tmp_path / "812/cgroup").write_text("0::/\n")
    (tmp_path / "812/fd/3").symlink_to("socket:[2]")
    assert ports.holder(22, tmp_path).text == "process nginx (pid 812)"
    assert "sudo ss -ltnp" in ports.holder(8080, tmp_path).text
    # A connection's own port is nobody's listening one.
    assert "sudo ss -ltnp" in ports.holder(8081, tmp_path).text


def test_a_host_without_a_kernels_tables_lists_nothing(tmp_path: Path) -> None:
    assert list(ports.listening(tmp_path)) == []


LISTENING = (
    "   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n"
)


@pytest.mark.parametrize(
    ("cgroup", "service"),
    [
        ("0::/system.slice/nginx.service\n", "nginx"),
        ("9:name=systemd:/docker/82/system.slice/nginx.service\n1:cpu:/\n", "nginx"),
        ("0::/system.slice/system-web.slice/web@1.service\n", "web@1"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", ""),
        ("0::/system.slice/docker-82.scope\n", ""),
    ],
)
def test_the_service_of_a_listener_is_named(tmp_path: Path, cgroup: str, service: str) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(f"header\n{LISTENING}")
    (tmp_path / "812/fd").mkdir(parents=True)
    (tmp_path / "812/fd/3").symlink_to("socket:[4711]")
    (tmp_path / "812/comm").write_text("nginx\n")
    (tmp_path / "812/cgroup").write_text(cgroup)
    assert ports.holder(80, tmp_path) == ports.Holder("process nginx (pid 812)", service)
    assert "sudo ss -ltnp" in ports.holder(81, tmp_path).text


def test_a_listener_of_our_own_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert f"(pid {os.getpid()})" in ports.holder(listener.getsockname()[1]).text
