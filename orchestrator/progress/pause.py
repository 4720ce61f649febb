"""The pause between two computations that read a whole study."""

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
