"""Entry point of ``python -m kit_engine`` and of the zipapp."""

import sys

from kit_engine.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
