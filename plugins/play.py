"""Start ansible-playbook with all that it is given, as make does.

It loads a thousand modules that stay to the end, and looking for garbage among them is a sixth of its start: Python's
collector begins with the first play instead (plugins/callback/kit_warm.py).
"""

from __future__ import annotations

import gc
import sys

gc.disable()
# This folder holds no module of Ansible's.
del sys.path[0]
sys.argv[0] = "ansible-playbook"

from ansible.cli.playbook import main  # noqa: E402 - as above

sys.exit(main())
