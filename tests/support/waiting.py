"""Waiting for other threads and processes in tests."""

import time
from collections.abc import Callable

WAIT_S = 120.0
"""Long enough for a machine that runs other tests beside this one."""


def wait_until(
    condition: Callable[[], object], *, timeout_s: float = WAIT_S, poll_s: float = 0.02
) -> None:
    """Returns once a condition holds; fails the test if it does not hold in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"the condition did not hold within {timeout_s:g} s"
        time.sleep(poll_s)
