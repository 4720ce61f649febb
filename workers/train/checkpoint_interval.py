"""Decides when a training writes its next checkpoint."""

from collections.abc import Callable

from workers.train.trainer import Trainer

MAX_COST_FRAC = 0.02
"""A checkpoint is due when it would take at most this fraction of the time since the last one."""
GUESSED_BYTES_PER_S = 100e6
"""Assumed write speed for the first checkpoint of a training."""


class CheckpointInterval:
    """The time between two checkpoints of a training, from the measured duration of the last one.

    Writing is synchronous. The interval grows on a slow store, so that checkpoints stay cheap.
    """

    def __init__(self, *, min_interval_s: float, clock: Callable[[], float]) -> None:
        """Starts the first interval.

        Args:
            min_interval_s: Least time between two checkpoints.
            clock: Returns seconds from an arbitrary origin.
        """
        self._min_interval_s = min_interval_s
        self._clock = clock
        self._since_s = clock()
        self._cost_s: float | None = None

    def is_due(self, trainer: Trainer) -> bool:
        """Returns whether a checkpoint is due.

        The least interval must be over, and the checkpoint must take at most `MAX_COST_FRAC` of the
        time since the last one. The duration of the first checkpoint is estimated from its size.
        """
        elapsed_s = self._clock() - self._since_s
        if elapsed_s < self._min_interval_s:
            return False
        if self._cost_s is None:
            num_bytes = sum(tensor.nbytes for tensor in trainer.state().values())
            self._cost_s = num_bytes / GUESSED_BYTES_PER_S
        return self._cost_s <= MAX_COST_FRAC * elapsed_s

    def measure(self, write: Callable[[], bool]) -> None:
        """Calls `write`, measures its duration and starts the next interval.

        The expected duration at most halves from one checkpoint to the next, so that one fast
        answer of a slow store does not count for much. A failed write is not measured: it can
        include a minute of retries, which would postpone the next checkpoint for an hour.

        Args:
            write: Writes a checkpoint and returns whether it succeeded.
        """
        began_s = self._clock()
        succeeded = write()
        self._since_s = self._clock()
        if succeeded:
            self._cost_s = max(self._since_s - began_s, 0.5 * (self._cost_s or 0))
