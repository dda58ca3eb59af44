"""Who runs in a container: its service, and nobody who looks in for a moment."""

from __future__ import annotations

from pathlib import Path

from kit_engine import facts

ID = "a" * 64


def process(proc: Path, pid: int, parent: int, name: str, uid: int) -> None:
    """Write what the kernel tells of a process of the container."""
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "cgroup").write_text(f"0::/docker/{ID}\n")
    uids = "\t".join([str(uid)] * 4)
    (folder / "status").write_text(f"Name:\t{name}\nPPid:\t{parent}\nUid:\t{uids}\nCapEff:\t0\nNoNewPrivs:\t1\n")


def test_a_health_check_is_no_part_of_the_service(tmp_path: Path) -> None:
    process(tmp_path, 100, 50, "postgres", 999)
    process(tmp_path, 101, 100, "postgres", 999)
    process(tmp_path, 102, 101, "archiver", 0)
    # Docker puts it in beside the first process, with the container's own user, and it starts one more.
    process(tmp_path, 200, 50, "sh", 0)
    process(tmp_path, 201, 200, "pg_isready", 0)
    told = facts._processes({ID: 100}, tmp_path)[ID]
    assert sorted((one["name"], one["uid"]) for one in told) == [("archiver", 0), ("postgres", 999), ("postgres", 999)]
