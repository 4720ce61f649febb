from collections.abc import Callable

from orchestrator.plan.measurements import (
    constants_of,
    operators_of,
    reaches_of,
)
from orchestrator.plan.plan import Plan
from workers.specs.measures import CurvatureSpec

FINETUNE = {
    "defaults": {"steps": 10, "lr": 0.01, "batch_size": 8},
    "axes": {"steps": [10, 20], "augment": ["none", "flip"]},
}


def test_constants_are_measured_once_for_each_task_and_loss(
    make_plan: Callable[..., Plan],
) -> None:
    """Settings share them, unless the augmentation makes it another loss."""
    plan = make_plan(finetune=FINETUNE)
    specs = constants_of(plan)
    assert len(specs) == len({spec.id for spec in specs}) == 3 * 2
    assert {spec.sample.augment for spec in specs} == {"none", "flip"}
    curved = constants_of(plan, curvature=CurvatureSpec())
    assert not {spec.id for spec in specs} & {spec.id for spec in curved}


def test_reaches_lead_to_every_snapshot(make_plan: Callable[..., Plan]) -> None:
    """Three tasks at three settings: nine experts."""
    plan = make_plan(finetune=FINETUNE)
    assert {spec.experts for spec in reaches_of(plan)} == {(each,) for each in plan.experts}
    assert len(reaches_of(plan)) == 3 * 3


def test_linearised_experts_have_no_reach(make_plan: Callable[..., Plan]) -> None:
    """Their loss is measured on another model; nothing is said about it."""
    finetune = {**FINETUNE, "axes": {}, "linearised": True}
    plan = make_plan(finetune=finetune)
    assert (reaches_of(plan), constants_of(plan)) == ((), ())


def test_methods_that_only_add_are_measured_once_for_all(
    make_plan: Callable[..., Plan],
) -> None:
    """TIES at two densities has two effects; average and task arithmetic share one."""
    methods = [
        {"method": "average"},
        {"method": "task_arithmetic"},
        {"method": "ties", "density": 0.1},
        {"method": "ties", "density": 0.2},
        {"method": "ties", "density": 0.2, "batch_norm": "recalibrate"},
    ]
    plan = make_plan(merge=methods)
    specs = operators_of(plan, leave_one_out=False)
    num_groups = len({merge.experts for merge in plan.merges.values()})
    assert len(specs) == 3 * num_groups
    assert len({spec.id for spec in specs}) == len(specs)
