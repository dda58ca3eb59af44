"""What the docs promise, on fresh hosts."""
