"""Studies whose merged losses a test chooses, as a function of the hyperparameters."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.advice.advice import MethodAdvice, advise
from orchestrator.advice.cost import Costs
from orchestrator.plan.plan import Plan
from orchestrator.results.schema import RESULTS_SCHEMA
from orchestrator.theory.features import Trainings
from orchestrator.theory.trainings import training_of
from workers.specs.hyperparameters import Hyperparameters

TASKS = (
    "emoji_objects",
    "font_letters",
    "mnist_5k",
    "mnist_m",
    "fashion_mnist_5k",
    "traffic_signs",
)
NUM_TRAIN = 1000
Truth = Callable[[Hyperparameters], float]
Advise = Callable[..., MethodAdvice]


@pytest.fixture
def make_varied(make_plan: Callable[..., Plan]) -> Callable[..., Plan]:
    """Makes the plan of a study of six tasks in pairs, with some axes and a design."""

    def make(
        axes: Mapping[str, list[Any]],
        *,
        finetune: Mapping[str, Any] | None = None,
        **changes: object,
    ) -> Plan:
        section = {
            "optimizer": {"name": "adam"},
            "defaults": {"steps": 40, "lr": 0.0003, "batch_size": 16},
            "axes": dict(axes),
            **(finetune or {}),
        }
        return make_plan(tasks=list(TASKS), finetune=section, **changes)

    return make


def table_of(plan: Plan, truth: Truth, *, noise: float, seed: int = 0) -> pa.Table:
    """Returns a result table: truth, a level of each task, an error of each merge and task.

    An error of a third of the noise is shared by all groups of a setting, as experts are.
    """
    generator = np.random.default_rng(seed)
    level = {task: float(generator.normal()) * 0.3 for task in plan.study.task_names}
    shared = {setting.name: float(generator.normal()) * noise / 3 for setting in plan.settings}
    rows = [
        {
            "study": "s",
            "axis": cell.setting.axis,
            "value": cell.setting.value,
            "setting": cell.setting.name,
            "method": cell.label,
            "data_use": "none",
            "per_task_modules": False,
            "group": cell.group.name,
            "num_tasks": len(cell.group.tasks),
            "task": task,
            "held_out": False,
            "num_examples": 100,
            "accuracy": 0.5,
            "loss": truth(cell.setting.points[task])
            + level[task]
            + shared[cell.setting.name]
            + noise * float(generator.normal()),
            "expert_loss": 1.0 + level[task],
            "base_loss": 4.0 + level[task],
            "merge_id": f"{cell.merge.id}",
        }
        for cell in plan.cells
        for task in cell.group.tasks
    ]
    return pa.Table.from_pylist(rows, schema=RESULTS_SCHEMA)


def trainings_of(plan: Plan) -> Trainings:
    return {
        setting.name: {
            task: training_of(spec, num_train=NUM_TRAIN) for task, spec in experts.items()
        }
        for setting, experts in zip(plan.settings, plan.setting_experts, strict=True)
    }


@pytest.fixture
def make_table() -> Callable[..., pa.Table]:
    """Makes a result table of a plan with chosen losses."""
    return table_of


@pytest.fixture
def advise_on() -> Advise:
    """Returns the advice on the first method of a plan with chosen losses."""

    def run(
        plan: Plan, truth: Truth, *, noise: float = 0.02, seed: int = 0, **changes: object
    ) -> MethodAdvice:
        fields: dict[str, Any] = {
            "trainings": trainings_of(plan),
            "num_train": dict.fromkeys(plan.study.task_names, NUM_TRAIN),
            "measured": None,
            "costs": Costs(
                new_steps=lambda point: point.steps * len(plan.study.task_names), merge_steps=0.0
            ),
            **changes,
        }
        return advise(table_of(plan, truth, noise=noise, seed=seed), plan=plan, **fields)[0]

    return run
