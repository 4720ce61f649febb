"""Splits a study's slots between trials and the merge workers that run beside them."""

import math
import os
from dataclasses import dataclass

from orchestrator.study.schema import Study

MIN_SLOTS_TO_RESERVE = 8
"""From this many slots on, an eighth is set aside for merge workers while trials run. With fewer
slots, one merge worker runs beside the trials without a share: one of two slots would be half the
machine, and more workers than cores slow each other down."""
MIN_SLOTS_TO_SPLIT = 4
"""A study that reserves slots may have fewer at times, when other studies use the rest. With fewer
than this, all are for trials, and merge jobs wait until trials have ended."""


@dataclass(frozen=True, kw_only=True)
class Slots:
    """The slots that a study could use if it were alone on its cluster, within its quota."""

    most_trials: int = 1
    """Trials at once."""
    most_jobs: int = 1
    """Merge workers at once, without trials."""
    compete: bool = True
    """Whether trials and merge workers use the same resource; not if only trials hold GPUs."""

    @property
    def reserves(self) -> bool:
        """Returns whether merge workers hold a share of the cluster."""
        return self.most_trials >= MIN_SLOTS_TO_RESERVE

    def beside_trials(self, num_slots: int) -> int:
        """Returns the number of merge workers beside trials, for the present number of slots.

        If merge workers hold no share, it is one, or all that the same part of the cluster fits if
        they do not compete with the trials.
        """
        if not self.reserves and self.compete:
            return min(1, num_slots)
        if not self.reserves:
            return math.ceil(self.most_jobs * num_slots / self.most_trials)
        if num_slots < MIN_SLOTS_TO_SPLIT:
            return 0
        return max(1, num_slots // MIN_SLOTS_TO_RESERVE)

    def for_trials(self, num_slots: int) -> int:
        """Returns the number of trials that may run, for the present number of slots."""
        return num_slots - (self.beside_trials(num_slots) if self.reserves else 0)


def slots_here(study: Study) -> int:
    """Returns how many trials fit this machine's cores; its GPUs are not counted."""
    return max(1, int((os.cpu_count() or 1) / study.resources.trial.cpu))
