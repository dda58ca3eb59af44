"""The one error type of the engine."""

from __future__ import annotations

from collections.abc import Sequence


class EngineError(Exception):
    """What went wrong, where, and what to type next.

    Args:
        code: short word for pipelines, such as ``ports`` or ``migrate``.
        problem: what is wrong and where, in one or more lines; never a secret.
        remedy: the command to type next.
    """

    def __init__(self, code: str, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}\nNext: {remedy}")
        self.code = code
        self.problem = problem
        self.remedy = remedy


class UsageError(EngineError):
    """The caller asked for something that there is not; exit code 2."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__("usage", problem, remedy)


class CheckFailed(EngineError):  # noqa: N818 - it is a verdict, and reads as one
    """Several problems of the host, all found at once.

    Args:
        problems: each with its own remedy.
    """

    def __init__(self, problems: Sequence[EngineError]) -> None:
        lines = [f"  - {problem.problem}\n    Next: {problem.remedy}" for problem in problems]
        first = problems[0]
        if len(problems) == 1:
            super().__init__(first.code, first.problem, first.remedy)
        else:
            text = f"{len(problems)} things must be mended first; nothing was started:\n" + "\n".join(lines)
            of_one_kind = {problem.code for problem in problems} == {first.code}
            super().__init__(first.code if of_one_kind else "check", text, "mend each of them, then repeat the command")
        self.problems = tuple(problems)
