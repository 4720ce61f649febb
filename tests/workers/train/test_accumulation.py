from typing import Any

import pytest
import torch

from workers.specs.hyperparameters import Hyperparameters, TrainingConstants
from workers.train.accumulation import accumulation_of
from workers.train.averaging import WeightAverage
from workers.train.optimizers import create_optimizer
from workers.train.schedules import learning_rate


def training(**changed: Any) -> Hyperparameters:  # noqa: ANN401 any field
    values = {"steps": 12, "batch_size": 1, "lr": 0.1, "data_ratio": 1.0, "optimizer": "sgd"}
    return Hyperparameters(**{**values, "seed": 0, "warmup_steps": 3, **changed})


def constants(*, momentum: float = 0.0, nesterov: bool = False) -> TrainingConstants:
    return TrainingConstants(momentum=momentum, nesterov=nesterov, freeze_batch_norm=True)


def displacement(
    setting: Hyperparameters, fixed: TrainingConstants, *, gradients: torch.Tensor
) -> torch.Tensor:
    """Returns how far the product's own optimizer and average move weights of 1."""
    weight = torch.nn.Parameter(torch.ones(gradients.shape[1], dtype=torch.float64))
    optimizer = create_optimizer(setting, constants=fixed, parameters=[weight])
    average = WeightAverage(setting)
    for step, gradient in enumerate(gradients):
        optimizer.param_groups[0]["lr"] = learning_rate(setting, step=step)
        weight.grad = gradient.clone()
        optimizer.step()
        if average.has_begun(step + 1):
            average.add({"weight": weight.detach()}, step=step + 1)
    return (average.tensors["weight"] if average.tensors else weight.detach()) - 1


@pytest.mark.parametrize(
    ("setting", "fixed"),
    [
        (training(), constants()),
        (training(schedule="cosine", weight_decay=0.3), constants(momentum=0.9)),
        (training(schedule="linear"), constants(momentum=0.9, nesterov=True)),
        (training(average_weights="swa", swa_start=0.3), constants(momentum=0.9)),
        (training(average_weights="ema", ema_decay=0.7), constants()),
    ],
)
def test_sgd_ends_where_its_accumulation_vector_says(
    setting: Hyperparameters, fixed: TrainingConstants
) -> None:
    """On a linear loss, to rounding, with schedule, decay and averages."""
    gradients = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)).double()
    found = displacement(setting, fixed, gradients=gradients)
    accumulation = accumulation_of(setting, fixed)
    expected = -setting.lr * accumulation.entries @ gradients.numpy() + accumulation.pull
    assert found.numpy() == pytest.approx(expected, abs=1e-12)


def test_adam_moves_as_its_first_moment_where_the_second_is_constant() -> None:
    """Gradients of 1 or -1 have a second moment of 1, so the preconditioner is 1."""
    signs = torch.tensor([1, -1, 1, 1, -1, 1, -1, -1, 1, 1, 1, -1.0], dtype=torch.float64)[:, None]
    for optimizer, decay in (("adam", 0.0), ("adamw", 0.2)):
        setting = training(optimizer=optimizer, schedule="cosine", weight_decay=decay)
        accumulation = accumulation_of(setting, constants(momentum=0.9))
        found = displacement(setting, constants(momentum=0.9), gradients=signs)
        expected = -setting.lr * accumulation.entries @ signs.numpy() + accumulation.pull
        assert found.numpy() == pytest.approx(expected, rel=1e-6)


def test_training_of_no_steps_accumulates_nothing() -> None:
    """Its expert is the base."""
    assert accumulation_of(training(steps=0, warmup_steps=0), constants()).total == 0
