"""Counts the optimizer steps that a setting needs beyond what the store has."""

from collections.abc import Container
from dataclasses import replace

from orchestrator.advice.advice import NewSteps
from orchestrator.plan.plan import Plan
from workers.specs.hyperparameters import Hyperparameters


def new_steps_of(plan: Plan, *, committed: Container[str]) -> NewSteps:
    """Returns the function that counts a setting's new steps, over the tasks of all groups.

    Args:
        plan: The study's plan.
        committed: The ids of all experts in the store, of any study.
    """
    used = {task for group in plan.groups for task in group.tasks}
    default = plan.setting_experts[0]

    def new_steps(point: Hyperparameters) -> int:
        specs = (replace(spec, hyperparameters=point.canonical()) for spec in default.values())
        return sum(point.steps for spec in specs if spec.task in used and spec.id not in committed)

    return new_steps
