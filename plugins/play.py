"""Start ansible-playbook with all that it is given, as make does.

It loads a thousand modules that stay to the end, and looking for garbage among them is a sixth of its start: Python's
collector begins with the first play instead (plugins/callback/kit_warm.py). Taking them apart in the end would take a
tenth of a second: once all that is registered for the end was done, the process just ends.

Ansible goes on for ever when whoever reads its output is gone, such as a pipeline that was ended: its own thread that
tells of results has failed by then. Here it ends like any other program, and the hosts make themselves whole.
"""

from __future__ import annotations

import atexit
import gc
import os
import select
import signal
import sys
import threading
from pathlib import Path

gc.disable()


def end_with_reader() -> None:
    """End this process once nobody can read what it prints; a poll that waits for nothing tells of that alone."""
    gone = select.poll()
    gone.register(1, 0)
    gone.poll()
    os.kill(os.getpid(), signal.SIGTERM)


threading.Thread(target=end_with_reader, daemon=True).start()
# This folder holds no module of Ansible's.
sys.path[0] = str(Path(__file__).with_name("module_utils"))
sys.argv[0] = "ansible-playbook"

from kit_control import session_ahead  # noqa: E402 - as above

session_ahead.begin(sys.argv[1:])

from kit_control import ansible_yaml  # noqa: E402 - as above

ansible_yaml.remember()

from ansible.cli.playbook import main  # noqa: E402 - as above

code: object = 1
try:
    main()
except SystemExit as end:
    code = end.code
atexit._run_exitfuncs()
sys.stdout.flush()
sys.stderr.flush()
os._exit(code if isinstance(code, int) else int(code is not None))
