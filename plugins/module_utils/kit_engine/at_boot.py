"""What a host does by itself when it comes up again in the middle of a release: it makes that whole.

Docker starts what ran. What Compose had stopped to replace it, and what was only created in its place, it does not.
"""

from __future__ import annotations

from kit_engine import pending, releases, systemd
from kit_engine.report import Report
from kit_engine.stack import Stack

# A deploy that came first is waited for. Each try ends in time, and a host that cannot act yet is tried again.
WAIT_SECONDS, LIMIT_SECONDS, AGAIN_SECONDS, TRIES = 3600, 7200, 15, 20


def install(stack: Stack) -> bool:
    """Write the unit, and have systemd start it at boot.

    Args:
        stack: of a release; what is none has nothing under way.

    Returns:
        Whether anything changed; never where PID 1 is not systemd.

    Raises:
        EngineError: systemd refuses.
    """
    if not stack.release or not systemd.runs():
        return False
    unit = _unit(stack)
    if not systemd.write({unit: _text(stack)}) and (systemd.UNITS / "multi-user.target.wants" / unit).exists():
        return False
    systemd.call(stack, "daemon-reload")
    systemd.call(stack, "enable", unit)
    return True


def keep(stack: Stack, report: Report) -> None:
    """Have the unit be there before a release changes anything.

    Args:
        stack: of that release.
        report: told of what hinders.
    """
    with systemd.told(report, "a reboot in the middle of a release could not be provided for"):
        install(stack)


def remove(stack: Stack) -> None:
    """Remove the unit with the stack."""
    unit = _unit(stack)
    path = systemd.UNITS / unit
    if systemd.runs() and path.exists():
        systemd.call(stack, "disable", unit)
        path.unlink()
        systemd.call(stack, "daemon-reload")


def _unit(stack: Stack) -> str:
    return f"{stack.project}-recover.service"


def _text(stack: Stack) -> str:
    return f"""\
[Unit]
Description=Make whole a release that was cut off: {stack.name} ({stack.env})
Wants=docker.service
After=docker.service network-online.target
ConditionPathExists={stack.root / releases.RECORDS / pending.NAME}
StartLimitIntervalSec={LIMIT_SECONDS}
StartLimitBurst={TRIES}

[Service]
Type=oneshot
ExecStart="{stack.root}/docker-manage.sh" {stack.env} recover --wait {WAIT_SECONDS}
TimeoutStartSec={LIMIT_SECONDS}
Restart=on-failure
RestartSec={AGAIN_SECONDS}

[Install]
WantedBy=multi-user.target
"""
