"""Whether a command of the kit's holds a host of the bed."""

from __future__ import annotations

from testbed.hosts import Host

# Only looked at: to try it would be to take it for a moment.
_LOCKS = (
    "sudo sh -c 'for lock in /run/kit-*.lock; do [ ! -e $lock ] || ! grep -q :$(stat -c %i $lock) /proc/locks "
    "|| echo $lock; done'"
)


def held(host: Host) -> bool:
    """Tell whether one does."""
    return bool(host.run(_LOCKS).stdout)
