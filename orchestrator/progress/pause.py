"""The pause between two computations that read a whole study."""

import time
from collections.abc import Callable

VIEW_FRAC = 0.02
"""The part of the time that a view, such as the estimate of the time left, may take."""


def pause_s(took_s: float, *, least_s: float, max_frac: float = VIEW_FRAC) -> float:
    """Returns the seconds to wait before a computation is repeated.

    A computation that reads the whole study takes longer the larger the study is. With this pause
    it takes at most the same part of the time in a study of any size, and its answer is older.

    Args:
        took_s: Seconds that the computation took; of a thread's processor time, if others run too.
        least_s: The shortest pause.
        max_frac: The part of the time that the computation may take, in (0, 1).
    """
    return max(least_s, took_s * (1 / max_frac - 1))


class Paced:
    """A number that is counted by reading a whole study, and is kept for as long as `pause_s`."""

    def __init__(
        self, count: Callable[[], int], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Counts nothing yet.

        Args:
            count: Reads the study.
            clock: Returns seconds from any origin.
        """
        self._count = count
        self._clock = clock
        self._number = 0
        self._again_s = clock()

    def __call__(self) -> int:
        """Returns the number, counted anew if its pause is over."""
        began_s = self._clock()
        if began_s >= self._again_s:
            self._number = self._count()
            ended_s = self._clock()
            self._again_s = ended_s + pause_s(ended_s - began_s, least_s=0)
        return self._number
