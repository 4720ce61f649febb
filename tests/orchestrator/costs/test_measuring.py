"""What measuring the theory's constants costs beyond a study."""

from collections.abc import Callable

import pytest

from orchestrator.cli.verbs.plan import measuring_lines
from orchestrator.costs.durations import GUESS_MERGE_S_PER_IMAGE, GUESS_TRAIN_S_PER_IMAGE
from orchestrator.costs.measuring import (
    GRADIENTS_PER_PRODUCT,
    MeasuringCost,
    measuring_cost,
    work_of,
)
from orchestrator.plan.measurements import constants_of, operators_of
from orchestrator.plan.plan import Plan
from orchestrator.record.ledger import Ledger
from workers.specs.measures import EARLIER_CURVATURE, CurvatureSpec

TASKS = {"names": ["emoji_objects", "font_letters", "mnist_5k"], "max_test": 50}
STEPS = {
    "defaults": {"steps": 10, "lr": 0.01, "batch_size": 8},
    "axes": {"steps": [10, 30]},
}


def test_work_by_hand(make_plan: Callable[..., Plan]) -> None:
    """256 gradients a task; curvature has 3 pairs of 64 images with 6 products, and 80 more."""
    plan = make_plan(tasks=TASKS, finetune=STEPS)
    plain = work_of((*constants_of(plan), *operators_of(plan, leave_one_out=False)))
    assert (plain.num_gradients, plain.num_passes, plain.num_products) == (3 * 256, 0, 0)
    whole = work_of(constants_of(plan, curvature=CurvatureSpec()))
    assert whole.num_products == 3 * (3 * 64 * 6 + 16 * 5)
    earlier = work_of(constants_of(plan, curvature=EARLIER_CURVATURE))
    assert earlier.num_products == 3 * (3 * 64 * 11 + 16 * 10)
    assert whole.num_images == 3 * 256 + GRADIENTS_PER_PRODUCT * whole.num_products


def test_seconds_are_those_of_trained_images(make_plan: Callable[..., Plan]) -> None:
    """Three tasks: constants, and three passes of 192 images for each of six experts."""
    plan = make_plan(tasks=TASKS, finetune=STEPS)
    cost = measuring_cost(Ledger(plan, manifests=[]).committed(), calibration=None)
    assert cost is not None
    image_s = GUESS_TRAIN_S_PER_IMAGE / 4  # a quarter of the pixels
    assert cost.plain_s == pytest.approx((3 * 256 + 6 * 3 * 192 / 3) * image_s)
    assert cost.curvature_s > 3 * cost.plain_s
    merges = 6 * 2 * 50 * GUESS_MERGE_S_PER_IMAGE / 4
    assert cost.study_s == pytest.approx(3 * 30 * 8 * image_s + merges)


def test_linearised_experts_are_not_measured(make_plan: Callable[..., Plan]) -> None:
    """Neither constants nor reaches exist for them, so there is no line."""
    plan = make_plan(finetune={"linearised": True})
    cost = measuring_cost(Ledger(plan, manifests=[]).committed(), calibration=None)
    assert cost is None
    assert measuring_lines(cost) == ()


def test_the_line_has_both_costs() -> None:
    """Each in time and as a share of the study."""
    (line,) = measuring_lines(MeasuringCost(plain_s=60.0, curvature_s=240.0, study_s=1200.0))
    assert "(5% of the study)" in line
    assert "--curvature about 4 min (20% of the study)" in line
