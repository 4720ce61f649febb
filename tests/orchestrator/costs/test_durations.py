from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from orchestrator.costs.durations import (
    GUESS_FLOPS_PER_PIXEL,
    GUESS_GPU_FLOPS_PER_S,
    GUESS_MERGE_S_PER_IMAGE,
    GUESS_TRAIN_S_PER_IMAGE,
    Duration,
    Durations,
)
from orchestrator.costs.sizes import num_test_images
from orchestrator.plan.plan import Plan
from orchestrator.record.ledger import Ledger
from workers.artifacts.manifests import Manifest
from workers.calibrate.speeds import Calibration, file_key, image_key, train_key
from workers.models.model_sizes import ModelSize
from workers.specs.expert import ExpertSpec
from workers.specs.training import TrialSpec

Make = Callable[..., Manifest]
DEFAULTS = {"steps": 10, "lr": 0.01, "batch_size": 8}
PRETRAIN = {"tasks": ["mnist_m", "mnist_5k"], "steps": 50, "batch_size": 16}
BACKBONE: dict[str, Any] = {"model": "test_resnet", "weights": "none", "image_size": 32}
GUESS_S = 10 * 8 * GUESS_TRAIN_S_PER_IMAGE / 4


def over_bases(make_plan: Callable[..., Plan]) -> Plan:
    """Makes a plan of two models, each without pretraining and after 20 and 50 steps."""
    axes = {"pretrain_steps": [0, 20, 50], "model": ["test_resnet", "test_vit"]}
    return make_plan(backbone={**BACKBONE, "pretrain": PRETRAIN, "axes": axes})


def of_model(plan: Plan, model: str) -> list[TrialSpec]:
    bases = plan.bases.by_id
    return [trial for trial in plan.trials if bases[trial.longest.base_id].model == model]


def by(trials: tuple[TrialSpec, ...], **fields: object) -> TrialSpec:
    return next(
        trial for trial in trials if fields.items() <= asdict(trial.longest.hyperparameters).items()
    )


def test_bases_of_one_model_are_equally_fast(
    make_plan: Callable[..., Plan], expert_manifest: Make
) -> None:
    """One expert gives the duration on all bases of its model, and a related one on others."""
    plan = over_bases(make_plan)
    resnet, vit = of_model(plan, "test_resnet"), of_model(plan, "test_vit")
    made = expert_manifest(resnet[0].longest, seconds=8.0)
    durations = Durations(Ledger(plan, manifests=[made]).committed(), calibration=None)
    measured = Duration(seconds=8.0, basis="measured")
    assert {durations.training(each) for each in resnet} == {measured}
    assert durations.training(vit[0]) == Duration(seconds=8.0, basis="related")


def test_pretraining_is_guessed_then_calibrated_then_measured(
    make_plan: Callable[..., Plan], base_manifest: Make
) -> None:
    """A calibration adds an evaluation and a file for each snapshot."""
    plan = over_bases(make_plan)
    first, other = plan.bases.trainings
    guessed = Durations(Ledger(plan, manifests=[]).committed(), calibration=None).training(first)
    seconds = pytest.approx(50 * 16 * GUESS_TRAIN_S_PER_IMAGE / 4)
    assert guessed == Duration(seconds=seconds, basis="guessed")
    speeds = {
        train_key("test_resnet", image_size=32, spec=first.recipe): 0.2,
        image_key("test_resnet", image_size=32, linearised=False): 0.001,
        file_key("test_resnet"): 0.5,
    }
    calibration = Calibration(
        device="cpu", device_name="a core", machine="here", at_s=0.0, speeds=speeds
    )
    num_images = sum(num_test_images(plan, task=task) for task in PRETRAIN["tasks"])
    durations = Durations(Ledger(plan, manifests=[]).committed(), calibration=calibration)
    calibrated = durations.training(first)
    seconds = pytest.approx(50 * 0.2 + 2 * (0.5 + num_images * 0.001))
    assert calibrated == Duration(seconds=seconds, basis="calibrated")
    ledger = Ledger(plan, manifests=[base_manifest(first.outputs[0], seconds=7.0)])
    durations = Durations(ledger.committed(), calibration=calibration)
    assert durations.training(first) == Duration(seconds=pytest.approx(50.0), basis="measured")
    assert durations.training(other) == Duration(seconds=pytest.approx(50.0), basis="related")


def heavy(plan: Plan, *, flops_per_pixel: float) -> dict[str, ModelSize]:
    """Returns sizes in which each model has a number of operations per pixel."""
    size = ModelSize(
        num_parameters=1,
        parameter_bytes=4,
        state_bytes=4,
        num_features=1,
        flops_per_pixel=flops_per_pixel,
    )
    return dict.fromkeys(plan.bases.by_id, size)


def test_guess_on_cores_grows_with_the_operations_of_the_backbone(
    make_plan: Callable[..., Plan],
) -> None:
    """Ten times the operations of the default backbone take ten times as long."""
    plan = make_plan(finetune={"defaults": DEFAULTS})
    models = heavy(plan, flops_per_pixel=10 * GUESS_FLOPS_PER_PIXEL)
    durations = Durations(Ledger(plan, manifests=[]).committed(), calibration=None, models=models)
    assert durations.training(plan.trials[0]).seconds == pytest.approx(10 * GUESS_S)
    merge = next(iter(plan.merges.values()))
    num_images = sum(num_test_images(plan, task=each.task) for each in merge.experts)
    seconds = num_images * 10 * GUESS_MERGE_S_PER_IMAGE / 4
    assert durations.merge(merge) == Duration(seconds=pytest.approx(seconds), basis="guessed")


def test_guess_on_a_gpu_depends_on_the_share_of_the_worker(
    make_plan: Callable[..., Plan],
) -> None:
    """A forward pass takes a second on the whole GPU here; a step has three."""
    shares = {"trial": {"gpu": 0.25}, "merge": {"gpu": 0.5}}
    plan = make_plan(finetune={"defaults": DEFAULTS}, resources=shares)
    models = heavy(plan, flops_per_pixel=GUESS_GPU_FLOPS_PER_S / 32**2)
    durations = Durations(Ledger(plan, manifests=[]).committed(), calibration=None, models=models)
    assert durations.training(plan.trials[0]).seconds == pytest.approx(10 * 8 * 3 / 0.25)
    merge = next(iter(plan.merges.values()))
    num_images = sum(num_test_images(plan, task=each.task) for each in merge.experts)
    assert durations.merge(merge).seconds == pytest.approx(num_images / 0.5)


def test_sharp_and_linearised_steps_are_kinds_of_their_own(
    make_plan: Callable[..., Plan], expert_manifest: Make
) -> None:
    """Without a measurement they take a fixed multiple of a plain step."""
    axes = {"sam_rho": [0.0, 0.05], "linearised": [False, True], "lr": [0.1, 0.01]}
    plan = make_plan(finetune={"defaults": DEFAULTS, "axes": axes})
    guessed = Durations(Ledger(plan, manifests=[]).committed(), calibration=None)
    plain = by(plan.trials, lr=0.01, linearised=False)
    sharp = next(each for each in plan.trials if each.longest.hyperparameters.sam_rho)
    linear = by(plan.trials, linearised=True)
    for trial, factor in ((plain, 1), (sharp, 2), (linear, 2.5)):
        assert guessed.training(trial).seconds == pytest.approx(factor * GUESS_S)
    made = [expert_manifest(each.longest, seconds=s) for each, s in ((plain, 1.0), (sharp, 1.7))]
    durations = Durations(Ledger(plan, manifests=made).committed(), calibration=None)
    assert durations.training(by(plan.trials, lr=0.1)).seconds == pytest.approx(1.0)
    assert durations.training(sharp).seconds == pytest.approx(1.7)
    # The median of one second and of 1.7 seconds' half, two and a half times.
    assert durations.training(linear).seconds == pytest.approx(2.5 * (1.0 + 0.85) / 2)


@pytest.mark.parametrize(
    ("axis", "values", "name"),
    [
        ("augment", ["none", "flip"], "augment"),
        ("batch_size", [8, 16], "batch_size"),
        ("head", ["trained", "frozen"], "head"),
        ("average_weights", ["none", "ema"], "average_weights"),
        ("optimizer", ["sgd", "adam"], "optimizer"),
    ],
)
def test_calibrated_kind_is_not_replaced_by_a_measured_other_kind(
    make_plan: Callable[..., Plan],
    expert_manifest: Make,
    axis: str,
    values: list[object],
    name: str,
) -> None:
    """A measurement counts for its own kind; the calibration comes before related kinds."""
    plan = make_plan(finetune={"defaults": DEFAULTS, "axes": {axis: values}})

    def differs(spec: ExpertSpec) -> bool:
        first = plan.trials[0].longest.hyperparameters
        return bool(getattr(spec.hyperparameters, name) != getattr(first, name))

    other = next(trial for trial in plan.trials if differs(trial.longest))
    speeds = {
        train_key("test_resnet", image_size=32, spec=other.longest): 0.5,
        image_key("test_resnet", image_size=32, linearised=False): 1e-9,
    }
    calibration = Calibration(
        device="cpu", device_name="a core", machine="here", at_s=0.0, speeds=speeds
    )
    made = [expert_manifest(plan.trials[0].longest, seconds=8.0)]
    found = Durations(Ledger(plan, manifests=made).committed(), calibration=calibration).training(
        other
    )
    assert found == Duration(seconds=pytest.approx(5.0, abs=1e-3), basis="calibrated")


def test_learning_rate_and_weight_decay_change_no_speed(
    make_plan: Callable[..., Plan], expert_manifest: Make
) -> None:
    """One measured trial gives the durations of all."""
    axes = {"lr": [0.1, 0.01], "weight_decay": [0.0, 0.1], "schedule": ["constant", "cosine"]}
    plan = make_plan(finetune={"defaults": DEFAULTS, "axes": axes})
    made = [expert_manifest(plan.trials[0].longest, seconds=8.0)]
    durations = Durations(Ledger(plan, manifests=made).committed(), calibration=None)
    assert {durations.training(each) for each in plan.trials} == {
        Duration(seconds=8.0, basis="measured")
    }


def test_linear_probe_adds_a_pass_over_the_training_images(make_plan: Callable[..., Plan]) -> None:
    """A head that is trained from random weights needs no such pass of the base."""
    tasks = {"names": ["emoji_objects", "font_letters", "mnist_5k"], "max_train": 100}
    tasks["max_test"] = 50
    axes = {"head": ["trained", "probe_first"]}
    plan = make_plan(tasks=tasks, finetune={"defaults": DEFAULTS, "axes": axes})
    speeds = {
        train_key("test_resnet", image_size=32, spec=plan.trials[0].longest): 0.1,
        image_key("test_resnet", image_size=32, linearised=False): 0.001,
    }
    calibration = Calibration(
        device="cpu", device_name="a core", machine="here", at_s=0.0, speeds=speeds
    )
    durations = Durations(Ledger(plan, manifests=[]).committed(), calibration=calibration)
    seconds = {
        each.longest.hyperparameters.head: durations.training(each).seconds for each in plan.trials
    }
    assert seconds["trained"] == pytest.approx(10 * 0.1 + 2 * 50 * 0.001)
    assert seconds["probe_first"] == pytest.approx(seconds["trained"] + 100 * 0.001)


def test_temperatures_add_a_pass_over_the_validation_images(make_plan: Callable[..., Plan]) -> None:
    """Plain joint scores add none."""
    tasks = {"names": ["emoji_objects", "mnist_5k"], "max_test": 50, "max_validation": 20}
    seconds = {}
    for joint in ("none", "plain", "calibrated"):
        plan = make_plan(tasks=tasks, evaluation={"joint": joint})
        durations = Durations(Ledger(plan, manifests=[]).committed(), calibration=None)
        (spec,) = plan.merges.values()
        seconds[joint] = durations.merge(spec).seconds
    assert seconds["plain"] == seconds["none"]
    assert seconds["calibrated"] == pytest.approx(seconds["none"] * (50 + 20) / 50)
