"""Which story a run tells, on fresh hosts and of releases: each takes minutes, all more than a change should wait."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from testbed.fixtures import turn

# By file, or by the start of a test's id. `make test` tells one in turn (HOST_STORIES=turn), `make test-hosts` all.
STORIES = (
    ("fresh/test_fresh.py",),
    ("e2e/test_prod.py",),
    ("e2e/test_provision.py", "e2e/test_image_delivery.py"),
    ("e2e/test_on_host.py", "testbed/test_hosts.py"),
    ("roles/test_molecule.py::test_role_on_a_bare_host", "roles/test_molecule.py::test_role_on_a_host_with_an_engine"),
    ("e2e/test_tls_grade.py", "roles/test_molecule.py::test_alternative"),
    ("e2e/test_three_hosts.py",),
    (
        *("e2e/test_bad_hosts.py", "e2e/test_lock.py"),
        *("e2e/test_canary.py::test_a_process", "e2e/test_canary.py::test_open_places"),
    ),
    (
        "integration/test_hooks.py",
        "integration/test_control_hooks.py",
        "integration/test_maintenance.py",
        "integration/test_at_once.py",
    ),
    (
        *("integration/test_release_recovery.py", "integration/test_external.py"),
        *("integration/test_restore.py", "integration/test_restore_lost.py", "integration/test_restore_others.py"),
    ),
    ("faults/test_slice.py", "integration/test_many_releases.py", "integration/test_worker_handover.py"),
    ("integration/test_backup.py", "integration/test_disaster.py"),
    ("integration/test_backup_faults.py", "integration/test_backup_keeping.py", "integration/test_backup_ahead.py"),
    ("e2e/test_disaster.py",),
    ("e2e/test_prod_days.py",),
    ("integration/test_release_outcomes.py", "integration/test_release_commands.py"),
    ("integration/test_engine_local.py",),
    ("integration/test_engine_faults.py", "integration/test_local_guestbook.py"),
    ("integration/test_smoke.py", "integration/test_certificates.py"),
    ("roles/test_molecule.py::test_role_on_this_machine", "integration/test_base_images.py"),
    ("integration/test_app_image.py", "integration/test_image_transfer.py"),
    ("e2e/test_offsite.py",),
    (
        "integration/test_backup_offsite.py",
        "integration/test_backup_external.py",
        "integration/test_external_faults.py",
        "integration/test_external_tls.py",
    ),
    ("integration/test_backup_stream.py", "integration/test_backup_parallel.py"),
)
STORY = "story"
HERE = Path(__file__).parent


# Longest first, so that no process ends with a long file while the others have nothing left.
ORDER = ("e2e", "faults", "roles", "testbed", "integration", "render", "structure", "unit")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest first, and leave out the stories whose turn it is not."""
    items.sort(key=_rank)
    if os.environ.get("HOST_STORIES", "all") == "all":
        return
    told = STORIES[turn(len(STORIES), STORY)]
    others = [one for story in STORIES if story != told for one in story]
    left_out = [item for item in items if _name(item).startswith(tuple(others))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _rank(item: pytest.Item) -> int:
    folder = item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""
    return ORDER.index(folder) if folder in ORDER else len(ORDER)


def _name(item: pytest.Item) -> str:
    return f"{item.path.relative_to(HERE).as_posix()}::{item.name}" if item.path.is_relative_to(HERE) else item.nodeid
