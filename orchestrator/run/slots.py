"""Splits a study's slots between trials and the merge workers that run beside them."""

import math
from dataclasses import dataclass

MIN_SLOTS_TO_RESERVE = 8
"""From so many worker slots on, an eighth is set aside for merge jobs while trials run; below,
merge workers run beside the trials without a share: one of two slots would be half the machine."""
MIN_SLOTS_TO_SPLIT = 4
"""Of a study that may have enough to reserve: with fewer at the time, as others have the rest,
merge jobs wait until trials have ended."""


@dataclass(frozen=True, kw_only=True)
class Slots:
    """What a study could have if it were alone on its cluster, within its quota."""

    most_trials: int = 1
    """Trials at once."""
    most_jobs: int = 1
    """Merge workers at once, without trials."""

    @property
    def reserves(self) -> bool:
        """Whether merge workers hold a share of the cluster."""
        return self.most_trials >= MIN_SLOTS_TO_RESERVE

    def beside_trials(self, num_slots: int) -> int:
        """Returns how many merge workers there are beside trials, of the slots that there are now.

        Where they hold no share, as many as the same part of the cluster has room for.
        """
        if not self.reserves:
            return math.ceil(self.most_jobs * num_slots / self.most_trials)
        if num_slots < MIN_SLOTS_TO_SPLIT:
            return 0
        return max(1, num_slots // MIN_SLOTS_TO_RESERVE)

    def for_trials(self, num_slots: int) -> int:
        """Returns how many trials may run of the slots that there are now."""
        return num_slots - (self.beside_trials(num_slots) if self.reserves else 0)
