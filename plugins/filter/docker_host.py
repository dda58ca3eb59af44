"""Filters of the role docker_host; the work is done in module_utils/kit_control/docker_host.py.

Ansible loads every filter file anew in each task's process, so kit_control is imported only where a filter
is called: at the top it would cost each task of every play a tenth of a second.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))


def docker_host_state(*arguments: Any) -> dict[str, Any]:
    """Judge what probe.sh printed; see kit_control.docker_host.state."""
    from kit_control import docker_host

    return docker_host.state(*arguments)


def docker_host_plan(*arguments: Any) -> dict[str, Any]:
    """Choose what to install; see kit_control.docker_host.plan."""
    from kit_control import docker_host

    return docker_host.plan(*arguments)


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Offer the filters by name."""
        return {"docker_host_state": docker_host_state, "docker_host_plan": docker_host_plan}
