"""The snapshots of a group's experts from which a merge chooses the steps of each task."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from workers.specs.expert import ExpertSpec

StepRule = Literal["chosen", "stopped"]
"""`chosen`: the steps that merge best, by coordinate descent on the validation loss of the merge.
`stopped`: early stopping, each expert's least validation loss of its own."""

STEPS = "steps."
"""Stands before a task's name in a chosen combination of values: `steps.mnist_5k`."""


@dataclass(frozen=True, kw_only=True)
class Snapshots:
    """The experts that a merge may take for each task of its group, and the rule that decides."""

    rule: StepRule
    experts: tuple[tuple[ExpertSpec, ...], ...]
    """For each number of steps, ascending, the experts of the group in the order of its tasks. They
    differ in their steps alone."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of the group, in its order."""
        return tuple(expert.task for expert in self.experts[0])

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of steps, ascending, which all tasks have in common."""
        return tuple(experts[0].hyperparameters.steps for experts in self.experts)

    @property
    def num_own_passes(self) -> int:
        """Passes of the experts themselves over the group's validation images."""
        return len(self.counts) if self.rule == "stopped" else 0

    @property
    def num_combinations(self) -> int:
        """Combinations of steps that are merged, at most with two sweeps of the descent."""
        num = len(self.counts)
        return 1 if self.rule == "stopped" else num + 2 * len(self.tasks) * (num - 1)

    def at(self, steps: Mapping[str, float]) -> tuple[ExpertSpec, ...]:
        """Returns the group's experts after the steps of each task, by `steps.TASK`.

        Raises:
            KeyError: A task is missing, or has no snapshot after its steps.
        """
        by_count = dict(zip(self.counts, self.experts, strict=True))
        return tuple(
            by_count[int(steps[STEPS + task])][place] for place, task in enumerate(self.tasks)
        )
