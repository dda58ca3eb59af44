"""The one error of the test bed."""


class TestbedError(RuntimeError):
    """Say what is wrong, where, and what to type next.

    Args:
        what: the fault and its place, one sentence.
        next_step: what the reader types or changes next.
    """

    # The name starts like a test class; without this pytest tries to collect it.
    __test__ = False

    def __init__(self, what: str, next_step: str) -> None:
        super().__init__(f"{what}\n  next: {next_step}")
