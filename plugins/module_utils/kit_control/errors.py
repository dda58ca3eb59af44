"""The one error type of the control node."""

from __future__ import annotations


class KitError(Exception):
    """A mistake that the user can mend, or a state that needs their decision.

    Args:
        code: short word for pipelines, such as ``manifest`` or ``inventory``.
        problem: what is wrong and where, in one or more lines.
        remedy: the command to type or the line to write next.
    """

    def __init__(self, code: str, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}\nNext: {remedy}")
        self.code = code
        self.problem = problem
        self.remedy = remedy
