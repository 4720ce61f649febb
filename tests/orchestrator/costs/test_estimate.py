from collections.abc import Callable

import pytest

from eval.suites import find_task
from orchestrator.costs.durations import GUESS_MERGE_S_PER_IMAGE, GUESS_TRAIN_S_PER_IMAGE
from orchestrator.costs.estimate import estimate, estimate_store
from orchestrator.costs.sizes import Sizes, sizes_by_base
from orchestrator.plan.plan import Plan
from orchestrator.record.ledger import Ledger
from workers.artifacts.manifests import Manifest
from workers.calibrate.speeds import Calibration, file_key, image_key, merge_key, train_key

Make = Callable[..., Manifest]
TASKS = ["emoji_objects", "font_letters", "mnist_5k"]
STEPS = {
    "defaults": {"steps": 10, "lr": 0.01, "batch_size": 8},
    "axes": {"steps": [10, 30]},
}
GPUS = {"trial": {"gpu": 0.25, "cpu": 2}, "merge": {"gpu": 0.5, "cpu": 1}}


def calibration_of(plan: Plan, **changes: object) -> Calibration:
    """Makes a calibration: 0.1 s a step, 0.001 s an image, 0.01 s an expert, 0.5 s a file."""
    bases, size = plan.bases.by_id, plan.study.backbone.image_size
    speeds = {}
    for base in bases.values():
        speeds[file_key(base.model)] = 0.5
        for linearised in (False, True):
            key = image_key(base.model, image_size=size, linearised=linearised)
            speeds[key] = 0.002 if linearised else 0.001
    for trial in plan.trials:
        spec = trial.longest
        speeds[train_key(bases[spec.base_id].model, image_size=size, spec=spec)] = 0.1
    for training in plan.bases.trainings:
        speeds[train_key(training.longest.model, image_size=size, spec=training.recipe)] = 0.2
    for merge in plan.merges.values():
        speeds[merge_key(bases[merge.base_id].model, image_size=size, merge=merge)] = 0.01
    fields = {
        "device": "cpu",
        "device_name": "a core",
        "machine": "here",
        "at_s": 0.0,
        "speeds": speeds,
    }
    return Calibration(**{**fields, **changes})  # type: ignore[arg-type]


def sizes_of(plan: Plan) -> Sizes:
    """Returns the sizes of a plan without committed artifacts."""
    committed = Ledger(plan, manifests=[]).committed()
    return Sizes(committed=committed, models=sizes_by_base(plan))


def test_empty_store_gives_a_guess_and_says_so(make_plan: Callable[..., Plan]) -> None:
    """Trials of 30 steps of 8 images, merges on 50 images per task, a quarter of the pixels."""
    plan = make_plan(finetune=STEPS, tasks={"names": TASKS, "max_test": 50})
    left = estimate(Ledger(plan, manifests=[]).committed(), calibration=None)
    assert left.train_s == pytest.approx(3 * 30 * 8 * GUESS_TRAIN_S_PER_IMAGE / 4)
    assert left.merge_s == pytest.approx(6 * 2 * 50 * GUESS_MERGE_S_PER_IMAGE / 4)
    assert left.sources.startswith("a guess")


def test_guess_for_a_gpu_names_its_speed(make_plan: Callable[..., Plan]) -> None:
    """Merges on cores alone are guessed differently, so both sources are named."""
    share = {"gpu": 0.25}
    plan = make_plan(resources={"trial": share, "merge": share})
    sources = estimate(Ledger(plan, manifests=[]).committed(), calibration=None).sources
    assert "at 5 TFLOP/s per GPU" in sources
    assert "trials: " not in sources
    plan = make_plan(resources={"trial": share})
    sources = estimate(Ledger(plan, manifests=[]).committed(), calibration=None).sources
    assert "merge jobs: a guess from the backbone's floating point operations, at Effi" in sources


def test_calibration_replaces_the_guess(make_plan: Callable[..., Plan]) -> None:
    """A trial: 30 steps, two snapshots with files, three evaluations. A merge: two experts."""
    plan = make_plan(finetune=STEPS, tasks={"names": TASKS, "max_test": 50})
    left = estimate(Ledger(plan, manifests=[]).committed(), calibration=calibration_of(plan))
    assert left.train_s == pytest.approx(3 * (30 * 0.1 + 2 * 0.5 + 3 * 50 * 0.001))
    assert left.merge_s == pytest.approx(6 * (2 * 0.01 + 2 * 50 * 0.001))
    assert left.sources == "calibrated on a core at 1970-01-01 00:00 UTC, one worker alone"


def test_kinds_that_a_calibration_lacks_are_guessed(
    make_plan: Callable[..., Plan],
) -> None:
    """The calibration ran out of time before the merges; both sources are named."""
    plan = make_plan(tasks={"names": TASKS, "max_test": 50})
    whole = calibration_of(plan)
    speeds = {what: speed for what, speed in whole.speeds.items() if "merged" not in what}
    left = estimate(
        Ledger(plan, manifests=[]).committed(), calibration=calibration_of(plan, speeds=speeds)
    )
    assert left.merge_s == pytest.approx(3 * 2 * 50 * GUESS_MERGE_S_PER_IMAGE / 4)
    assert left.sources.startswith("trials: calibrated on a core")
    assert "merge jobs: a guess" in left.sources


def test_measurement_comes_before_a_calibration(
    make_plan: Callable[..., Plan], expert_manifest: Make, merge_manifest: Make
) -> None:
    """0.1 s per training image; 0.25 s per expert merged and 0.0075 s per image.

    The one missing training holds its worker half a second longer than it works.
    """
    plan = make_plan(tasks={"names": TASKS, "max_test": 100})
    experts = list(plan.experts.values())
    made = [expert_manifest(each, seconds=8.0) for each in experts[:2]]
    (ready,) = Ledger(plan, manifests=made).state().ready_merges
    ledger = Ledger(plan, manifests=[*made, merge_manifest(ready)])
    left = estimate(ledger.committed(), calibration=calibration_of(plan))
    assert left.train_s == pytest.approx(10 * 8 * 0.1)
    assert left.merge_s == pytest.approx(2 * (2 * 0.25 + 2 * 100 * 0.0075))
    assert left.sources == "measured in this store"
    assert left.wall_s(num_slots=2) == pytest.approx((8 + 4) / 2)
    assert left.wall_s(num_slots=2, extra_s=0.5) == pytest.approx((8 + 4 + 0.5) / 2)


def test_calibrated_batch_size_is_not_replaced_by_another_measured_one(
    make_plan: Callable[..., Plan], expert_manifest: Make
) -> None:
    """A measurement counts for its own batch size, the calibration for the other."""
    axes = {"defaults": STEPS["defaults"], "axes": {"batch_size": [8, 16]}}
    plan = make_plan(finetune=axes, tasks={"names": TASKS, "max_test": 100})
    measured = [expert_manifest(trial.longest, seconds=8.0) for trial in plan.trials[:1]]
    left = estimate(Ledger(plan, manifests=measured).committed(), calibration=calibration_of(plan))
    assert left.train_s == pytest.approx(2 * 8.0 + 3 * (10 * 0.1 + 0.5 + 2 * 100 * 0.001))
    assert left.sources.startswith("trials: measured in this store and calibrated on a core")


def test_hours_follow_the_shares_of_the_workers(make_plan: Callable[..., Plan]) -> None:
    """A quarter of a GPU for trials, half of one for merges, and their cores."""
    plan = make_plan(resources=GPUS, tasks={"names": TASKS, "max_test": 50})
    left = estimate(Ledger(plan, manifests=[]).committed(), calibration=None)
    assert left.usage.gpu_hours == pytest.approx((left.train_s / 4 + left.merge_s / 2) / 3600)
    assert left.usage.cpu_hours == pytest.approx((left.train_s * 2 + left.merge_s) / 3600)


def test_finished_study_has_no_work_left(
    make_plan: Callable[..., Plan], all_manifests: Callable[[Plan], list[Manifest]]
) -> None:
    """Zero seconds."""
    plan = make_plan()
    left = estimate(Ledger(plan, manifests=all_manifests(plan)).committed(), calibration=None)
    assert (left.train_s, left.merge_s, left.is_anything_left) == (0, 0, False)


def test_validation_images_are_a_fifth_of_the_training_images(
    make_plan: Callable[..., Plan],
) -> None:
    """Merges are evaluated on the held-out training images, not on the test images."""
    plan = make_plan(tasks={"names": ["mnist_5k", "mnist_m"], "evaluate_on": "validation"})
    sizes = [find_task(task).num_train // 5 for task in ("mnist_5k", "mnist_m")]
    left = estimate(Ledger(plan, manifests=[]).committed(), calibration=None)
    assert left.merge_s == pytest.approx(sum(sizes) * GUESS_MERGE_S_PER_IMAGE / 4)


def test_bytes_are_estimated_before_anything_exists(make_plan: Callable[..., Plan]) -> None:
    """Weights, buffers and a head per expert; pixels and labels; checkpoints."""
    plan = make_plan(tasks={"names": TASKS, "max_train": 100, "max_test": 50})
    store = estimate_store(plan, sizes=sizes_of(plan), num_slots=2)
    heads = sum(4 * 97 * find_task(task).num_classes for task in TASKS)
    assert store.expert_bytes == 3 * 1_499_192 + heads
    pixels = sum(32 * 32 * find_task(task).channels for task in TASKS)
    assert store.data_bytes == 150 * pixels + 3 * 150 * 8
    assert store.checkpoint_bytes == 2 * (1_499_192 + 1_490_752)


def test_checkpoint_of_an_optimizer_without_momentum_is_smaller(
    make_plan: Callable[..., Plan],
) -> None:
    """SGD without momentum keeps the weights alone; Adam keeps two more tensors of their size."""
    expected = {"sgd": 1_499_192, "adam": 1_499_192 + 2 * 1_490_752}
    for name, num_bytes in expected.items():
        optimizer = {"name": name, "momentum": 0.0 if name == "sgd" else 0.9}
        plan = make_plan(finetune={"optimizer": optimizer})
        store = estimate_store(plan, sizes=sizes_of(plan), num_slots=1)
        assert store.checkpoint_bytes == num_bytes
