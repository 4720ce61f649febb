"""A clock for tests of code that takes its time as an argument."""


class ManualClock:
    """Seconds that pass only when a test adds them to `now_s`."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """Returns the time that the test has set."""
        return self.now_s
