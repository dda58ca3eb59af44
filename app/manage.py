#!/usr/bin/env python3
"""Django's command line. Outside a container it reads its environment from a file (see `load_environment`)."""

import os
import sys
from pathlib import Path

from django.core.management import execute_from_command_line
from dotenv import load_dotenv


def load_environment() -> None:
    """Read the file named by ENV_FILE, else `.env` beside this program if there is one.

    Variables that are set already win, so nothing changes inside a container.

    Raises:
        SystemExit: ENV_FILE names a file that does not exist.
    """
    named = os.environ.get("ENV_FILE", "")
    path = Path(named) if named else Path(__file__).resolve().parent / ".env"
    if named and not path.is_file():
        raise SystemExit(f"ENV_FILE names {path}, which is no file. Render one with `make render ENV=local`.")
    # Values are taken as they stand: a password with a ${ in it is no reference to another variable.
    load_dotenv(path, override=False, interpolate=False)


if __name__ == "__main__":
    load_environment()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    execute_from_command_line(sys.argv)
