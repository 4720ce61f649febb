import numpy as np
import pytest
import torch

from eval.theory.accumulation import adam, ema_weights, expected_norm, sgd, swa_weights
from workers.specs.hyperparameters import Hyperparameters
from workers.train.averaging import WeightAverage
from workers.train.schedules import learning_rate

ONES = [1.0] * 5


def test_plain_steps_count_once() -> None:
    """A = K, and the last entry is 1."""
    a = sgd(ONES)
    assert a.entries.tolist() == ONES
    assert (a.total, a.sum_of_squares, a.largest, a.inner_last, a.is_plain) == (5, 5, 1, 1, True)


def test_momentum_repeats_a_gradient() -> None:
    """(1 - rho^(K-k)) / (1 - rho)."""
    a = sgd(ONES, momentum=0.9)
    assert a.entries == pytest.approx([4.0951, 3.439, 2.71, 1.9, 1])
    assert a.sum_of_squares == pytest.approx(40.55067, abs=1e-5)
    assert not a.is_plain


def test_nesterov_looks_one_step_further() -> None:
    """The same with the exponent K - k + 1."""
    a = sgd(ONES, momentum=0.9, nesterov=True)
    assert a.entries == pytest.approx([(1 - 0.9 ** (6 - k)) / 0.1 for k in range(5)])


def test_decay_forgets_early_steps_and_pulls_to_zero() -> None:
    """(1 - d)^(K-1-k), and the base's share shrinks by (1 - d)^K."""
    a = sgd(ONES, weight_decay=0.1)
    assert a.entries == pytest.approx([0.9**4, 0.9**3, 0.9**2, 0.9, 1])
    assert a.pull == pytest.approx(0.9**5 - 1)
    decoupled = adam(ONES, first_decay=0.0, weight_decay=0.1)
    assert decoupled.entries == pytest.approx(a.entries)


def test_adam_spreads_a_gradient_over_later_steps() -> None:
    """sum_{t>k} (1-b1) b1^(t-1-k) / (1 - b1^t); the sum is K."""
    a = adam(ONES)
    assert a.entries == pytest.approx([2.144773, 1.271970, 0.828505, 0.510557, 0.244194], abs=1e-6)
    assert a.total == pytest.approx(5)


def test_averages_of_iterates() -> None:
    """SWA: (K - max(k, qK)) / (K - qK). EMA: (1 - d^(K-k)) / (1 - d^K)."""
    rates = [1.0] * 8
    swa = sgd(rates, iterate_weights=swa_weights(8, start=6))
    assert swa.entries == pytest.approx([(8 - max(k, 6)) / 2 for k in range(8)])
    assert swa.is_plain
    ema = sgd(rates, iterate_weights=ema_weights(8, decay=0.9))
    assert ema.entries == pytest.approx([(1 - 0.9 ** (8 - k)) / (1 - 0.9**8) for k in range(8)])
    with pytest.raises(ValueError, match="no step"):
        swa_weights(8, start=8)


def test_no_step_moves_nothing() -> None:
    """An expert of 0 steps is the base."""
    a = sgd([])
    assert (a.total, a.inner_last, a.largest, a.pull) == (0, 0, 0, 0)


def hyperparameters(**changed: object) -> Hyperparameters:
    """Returns a training of 12 steps with warmup."""
    values = {"steps": 12, "batch_size": 1, "lr": 0.1, "data_ratio": 1.0, "optimizer": "sgd"}
    return Hyperparameters(**{**values, "seed": 0, "warmup_steps": 3, **changed})


CASES = [
    ({"schedule": "cosine"}, {"momentum": 0.9}),
    ({"schedule": "linear"}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.3}),
    ({"schedule": "cosine", "average_weights": "swa", "swa_start": 0.5}, {"momentum": 0.5}),
    ({"average_weights": "ema", "ema_decay": 0.8}, {}),
]


@pytest.mark.parametrize(("changed", "options"), CASES)
def test_real_optimizer_ends_where_the_accumulation_vector_says(
    changed: dict[str, object], options: dict[str, float]
) -> None:
    """On a linear loss, torch's SGD under the product's schedules and averages, to rounding."""
    setting = hyperparameters(**changed)
    gradients = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    weight = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([weight], lr=setting.lr, **options)
    average = WeightAverage(setting)
    for step, gradient in enumerate(gradients):
        optimizer.param_groups[0]["lr"] = learning_rate(setting, step=step)
        weight.grad = gradient.clone()
        optimizer.step()
        if average.has_begun(step + 1):
            average.add({"weight": weight.detach()}, step=step + 1)
    end = average.tensors["weight"] if average.tensors else weight.detach()

    iterates = {"swa": lambda: swa_weights(12, start=6), "ema": lambda: ema_weights(12, decay=0.8)}
    accumulation = sgd(
        [learning_rate(setting, step=step) / setting.lr for step in range(12)],
        momentum=options.get("momentum", 0.0),
        nesterov=bool(options.get("nesterov", False)),
        weight_decay=setting.lr * options.get("weight_decay", 0.0),
        iterate_weights=iterates.get(setting.average_weights, lambda: None)(),
    )
    moved = -setting.lr * accumulation.entries @ gradients.numpy()
    moved += accumulation.pull * start.numpy()
    assert (end - start).numpy() == pytest.approx(moved, abs=1e-12)


def test_walk_of_unit_steps_has_the_measured_norms() -> None:
    """Adam at 2e-4 with 3.37 million weights: 1.42, 1.97, 2.64 after 10, 20 and 40 steps."""
    norms = [
        expected_norm(adam([1.0] * steps), lr=2e-4, num_weights=3_370_000) for steps in (10, 20, 40)
    ]
    assert norms == pytest.approx([1.42, 1.97, 2.64], abs=0.03)
    assert np.all(np.diff(norms) > 0)
