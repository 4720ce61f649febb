from collections.abc import Callable
from dataclasses import replace

import pytest

from eval.tasks import find_task
from orchestrator.estimate import (
    GUESS_MERGE_S_PER_IMAGE,
    GUESS_TRAIN_S_PER_IMAGE,
    estimate,
)
from orchestrator.ledger import Ledger
from orchestrator.plan import Plan
from workers.manifests import Manifest

Make = Callable[..., Manifest]
TASKS = ["emoji_objects", "font_letters", "mnist_5k"]
STEPS = {
    "defaults": {"steps": 10, "lr": 0.01, "batch_size": 8},
    "axes": {"steps": [10, 30]},
}


def test_empty_store_is_a_guess_that_says_so(make_plan: Callable[..., Plan]) -> None:
    """Three trials of 30 steps of 8 images; 6 merges of 2 tasks of 50 images; a quarter pixels."""
    plan = make_plan(finetune=STEPS, tasks={"names": TASKS, "max_test": 50})
    left = estimate(Ledger(plan, manifests=[]))
    assert left.train_s == pytest.approx(3 * 30 * 8 * GUESS_TRAIN_S_PER_IMAGE / 4)
    assert left.merge_s == pytest.approx(6 * 2 * 50 * GUESS_MERGE_S_PER_IMAGE / 4)
    assert left.basis.startswith("a guess")
    assert left.expert_bytes is None


def test_what_was_measured_takes_the_place_of_the_guess(
    make_plan: Callable[..., Plan], expert_manifest: Make, merge_manifest: Make
) -> None:
    """0.1 s an image trained and 0.01 s an image merged, for what is left."""
    plan = make_plan(tasks={"names": TASKS, "max_test": 100})
    experts = list(plan.experts.values())
    made = [expert_manifest(each, seconds=8.0) for each in experts[:2]]
    (ready,) = Ledger(plan, manifests=made).ready_merges()
    left = estimate(Ledger(plan, manifests=[*made, merge_manifest(ready)]))
    assert left.train_s == pytest.approx(10 * 8 * 0.1)
    assert left.merge_s == pytest.approx(2 * 2 * 100 * 0.01)
    assert left.basis == "measured in this store"
    assert left.wall_s(num_slots=2) == pytest.approx((8 + 4) / 2)


def test_finished_study_has_nothing_left(
    make_plan: Callable[..., Plan], all_manifests: Callable[[Plan], list[Manifest]]
) -> None:
    """Zero seconds."""
    plan = make_plan()
    left = estimate(Ledger(plan, manifests=all_manifests(plan)))
    assert (left.train_s, left.merge_s) == (0, 0)


def test_validation_images_are_a_fifth_of_the_training_images(
    make_plan: Callable[..., Plan],
) -> None:
    """The merges are evaluated on what was held out, not on the test images."""
    plan = make_plan(tasks={"names": ["mnist_5k", "mnist_m"], "evaluate_on": "validation"})
    sizes = [find_task(task).num_train // 5 for task in ("mnist_5k", "mnist_m")]
    left = estimate(Ledger(plan, manifests=[]))
    assert left.merge_s == pytest.approx(sum(sizes) * GUESS_MERGE_S_PER_IMAGE / 4)


def test_bytes_are_those_of_the_base_for_every_expert(
    make_plan: Callable[..., Plan], expert_manifest: Make
) -> None:
    """An expert is as large as the base: three of 4,000 bytes; the packaged one is known ahead."""
    plan = make_plan()
    expert = expert_manifest(next(iter(plan.experts.values())))
    base = replace(expert, kind="base", id=plan.bases.jobs[0].spec.id)
    assert estimate(Ledger(plan, manifests=[base])).expert_bytes == 12_000
    packaged = make_plan(backbone={"model": "tf_efficientnet_lite0"})
    known = estimate(Ledger(packaged, manifests=[])).expert_bytes
    assert known is not None
    assert 3 * 15e6 < known < 3 * 25e6
