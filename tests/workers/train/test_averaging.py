from typing import Any

import pytest
import torch

from workers.specs.hyperparameters import Hyperparameters
from workers.train.averaging import WeightAverage

EMA: dict[str, Any] = {"average_weights": "ema", "ema_decay": 0.5}
WEIGHTS = (8.0, 4.0, 6.0, 1.0)


def averaging(**fields: Any) -> Hyperparameters:  # noqa: ANN401 any hyperparameter
    defaults = {"steps": 4, "batch_size": 8, "lr": 0.1, "data_ratio": 1.0, "seed": 0}
    return Hyperparameters(optimizer="sgd", **{**defaults, **fields})


def mean_of(hyperparameters: Hyperparameters, *, num_steps: int = 4) -> list[float]:
    """Returns the mean after each step at which a mean exists."""
    average = WeightAverage(hyperparameters)
    means = []
    for step, weight in enumerate(WEIGHTS[:num_steps], start=1):
        if average.has_begun(step):
            average.add({"w": torch.tensor([weight])}, step=step)
            means.append(average.tensors["w"].item())
    return means


def test_moving_mean_weighs_each_step_by_the_decay() -> None:
    """By hand for a decay of a half: (8), (8 + 2 * 4) / 3, (8 + 2 * 4 + 4 * 6) / 7, ..."""
    assert mean_of(averaging(**EMA)) == pytest.approx([8.0, 16 / 3, 40 / 7, 48 / 15])


def test_moving_mean_does_not_know_the_number_of_steps() -> None:
    """Snapshots of one training rely on this."""
    assert mean_of(averaging(**EMA, steps=1000), num_steps=3) == mean_of(averaging(**EMA))[:3]


@pytest.mark.parametrize(
    ("start", "means"),
    [(0.0, [8.0, 6.0, 6.0, 4.75]), (0.5, [6.0, 3.5]), (0.6, [6.0, 3.5]), (0.75, [1.0])],
)
def test_plain_mean_begins_after_its_fraction_of_the_steps(
    start: float, means: list[float]
) -> None:
    """With four steps, a start between two steps is rounded down."""
    assert mean_of(averaging(average_weights="swa", swa_start=start)) == pytest.approx(means)


def test_there_is_no_mean_unless_asked_for() -> None:
    """Mode `none` keeps no tensors."""
    assert mean_of(averaging()) == []


def test_integers_are_those_of_the_last_step() -> None:
    """BatchNorm's count of batches is an integer."""
    average = WeightAverage(averaging(**EMA))
    for step in (1, 2):
        average.add({"n": torch.tensor(step)}, step=step)
    assert average.tensors["n"].item() == 2


def test_equal_weights_are_their_mean_to_the_bit() -> None:
    """Frozen statistics and heads stay unchanged."""
    weight = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    for kind in (EMA, {**EMA, "ema_decay": 0.999}, {"average_weights": "swa"}):
        average = WeightAverage(averaging(**kind, steps=9))
        for step in range(1, 10):
            average.add({"w": weight}, step=step)
        assert torch.equal(average.tensors["w"], weight)
