"""Test bed: containers of the machine's Docker engine that behave as fresh Debian hosts."""
