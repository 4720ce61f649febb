from collections.abc import Callable
from dataclasses import replace

import pytest

from workers.specs.bases import BaseSpec, PretrainSpec
from workers.specs.expert import ExpertSpec
from workers.specs.hyperparameters import Hyperparameters, TrainingConstants
from workers.specs.training import Pretraining, Training, TrialSpec

HYPERPARAMETERS = Hyperparameters(
    steps=100, batch_size=32, lr=0.01, data_ratio=1.0, optimizer="sgd", seed=0
)
CONSTANTS = TrainingConstants(momentum=0.9, freeze_batch_norm=False)
EXPERT = ExpertSpec(
    task="mnist_5k",
    base_id="0" * 16,
    data_id="1" * 16,
    hyperparameters=HYPERPARAMETERS,
    constants=CONSTANTS,
)
BASE = BaseSpec(
    model="resnet18",
    weights="timm",
    seed=0,
    pretrain=PretrainSpec(
        tasks=("mnist_5k", "mnist_m"),
        data_ids=("1" * 16, "2" * 16),
        hyperparameters=HYPERPARAMETERS,
        constants=CONSTANTS,
    ),
)
Make = Callable[[tuple[int, ...]], Training]


def trial(snapshots: tuple[int, ...]) -> TrialSpec:
    """Returns a trial with some snapshots."""
    return TrialSpec(longest=EXPERT.with_steps(snapshots[-1]), snapshots=snapshots)


def pretraining(snapshots: tuple[int, ...]) -> Pretraining:
    """Returns a pretraining with some snapshots."""
    return Pretraining(longest=BASE.with_steps(snapshots[-1]), snapshots=snapshots)


both_kinds = pytest.mark.parametrize("make", [trial, pretraining])


@both_kinds
def test_training_commits_an_artifact_at_each_snapshot(make: Make) -> None:
    """The artifacts differ in their steps alone, and the training has the id of the last."""
    training = make((10, 50, 100))
    assert [each.hyperparameters.steps for each in training.outputs] == [10, 50, 100]
    assert [each.with_steps(100) for each in training.outputs] == [training.longest] * 3
    assert training.id == training.outputs[-1].id
    assert training.num_steps == 100


@both_kinds
@pytest.mark.parametrize(
    ("committed", "left"),
    [((), (10, 50, 100)), ((10,), (50, 100)), ((100,), (10, 50)), ((10, 100), (50,))],
)
def test_remainder_of_a_training_ends_at_the_last_missing_artifact(
    make: Make, committed: tuple[int, ...], left: tuple[int, ...]
) -> None:
    """A resumed study takes no step that it does not need."""
    training = make((10, 50, 100))
    remainder = training.without({training.longest.with_steps(steps).id for steps in committed})
    assert remainder == make(left)


@both_kinds
def test_finished_training_has_no_remainder(make: Make) -> None:
    """Nothing runs when all artifacts are committed."""
    training = make((10, 100))
    assert training.without({output.id for output in training.outputs}) is None


def test_artifacts_that_differ_only_in_steps_share_a_training() -> None:
    """Each artifact of another task or another learning rate needs a training of its own."""
    faster = replace(EXPERT, hyperparameters=replace(HYPERPARAMETERS, lr=0.1))
    other = replace(EXPERT, task="mnist_m")
    found = TrialSpec.sharing_prefixes([EXPERT, faster, EXPERT.with_steps(10), other, EXPERT])
    assert [(each.longest, each.snapshots) for each in found] == [
        (EXPERT, (10, 100)),
        (faster, (100,)),
        (other, (100,)),
    ]


def test_schedule_that_depends_on_the_total_shares_no_prefix() -> None:
    """After 10 of 100 steps of a cosine the learning rate is not that of 10 of 10 steps."""
    cosine = replace(HYPERPARAMETERS, schedule="cosine")
    assert BASE.pretrain is not None
    base = replace(BASE, pretrain=replace(BASE.pretrain, hyperparameters=cosine))
    found = Pretraining.sharing_prefixes([base.with_steps(10), base])
    assert [each.snapshots for each in found] == [(10,), (100,)]


def test_trial_starts_from_its_base_and_pretraining_from_the_initial_one() -> None:
    """The labels name what distinguishes the trainings of a study."""
    assert (trial((10,)).base_id, trial((10,)).label) == ("0" * 16, "mnist_5k lr=0.01")
    assert pretraining((10,)).base_id == replace(BASE, pretrain=None).id
    assert pretraining((10,)).label == "pretraining resnet18"
    assert [each.output_kind for each in (trial((10,)), pretraining((10,)))] == ["expert", "base"]
