"""Checks of a deployed stack, run on the control node after each release: make smoke ENV=."""
