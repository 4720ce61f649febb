"""Counts the cost of a setting in optimizer steps: of its training, and of its merges."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.plan.plan import Plan
from workers.specs.hyperparameters import Hyperparameters

_STEP_PASSES = 3
"""Forward passes that a step takes as long as: one forward, and twice that backward."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The costs of a setting."""

    new_steps: Callable[[Hyperparameters], int]
    """Counts the optimizer steps, over all tasks, that a setting needs beyond the store's
    experts."""
    merge_steps: float
    """The steps that take as long as evaluating the merges of one setting."""

    def total(self, points: Sequence[Hyperparameters]) -> float:
        """Returns the cost of a training, the first point, and of all its snapshots, in steps."""
        return self.new_steps(points[0]) + len(points) * self.merge_steps


def costs_of(plan: Plan, *, committed: Container[str], num_test: Mapping[str, int]) -> Costs:
    """Returns the costs of a study's settings.

    Args:
        plan: The study's plan.
        committed: The ids of all experts in the store, of any study.
        num_test: The number of test images by task.
    """
    groups = [group for group in plan.groups if group.size == plan.study.groups.size]
    images = sum(num_test[task] for group in groups for task in group.tasks)
    num_methods = len({cell.label for cell in plan.cells})
    batch_size = plan.study.finetune.default_point.batch_size
    used = {task for group in plan.groups for task in group.tasks}
    default = (*plan.setting_experts, *plan.candidate_experts)[0]

    def new_steps(point: Hyperparameters) -> int:
        specs = (
            replace(spec, hyperparameters=point.canonical(), evaluate_on="test")
            for spec in default.values()
        )
        return sum(point.steps for spec in specs if spec.task in used and spec.id not in committed)

    return Costs(new_steps=new_steps, merge_steps=num_methods * images / batch_size / _STEP_PASSES)
