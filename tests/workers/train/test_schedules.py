import math
from collections.abc import Callable

import pytest

from workers.specs.expert import ExpertSpec
from workers.train.schedules import learning_rate


def test_cosine_falls_from_the_peak_towards_zero(make_expert: Callable[..., ExpertSpec]) -> None:
    """By hand for four steps: 1, (1 + cos 45 degrees) / 2, 1/2, (1 - cos 45 degrees) / 2."""
    spec = make_expert(schedule="cosine", lr=2.0, steps=4)
    rates = [learning_rate(spec.hyperparameters, step=step) for step in range(4)]
    half = math.sqrt(0.5)
    assert rates == pytest.approx([2.0, 1 + half, 1.0, 1 - half])
    assert learning_rate(spec.hyperparameters, step=4) == pytest.approx(0.0)


def test_constant_schedule_does_not_know_the_number_of_steps(
    make_expert: Callable[..., ExpertSpec],
) -> None:
    """Snapshots of one training rely on this."""
    spec = make_expert(lr=0.3, steps=10)
    rates = {learning_rate(spec.hyperparameters, step=step) for step in (0, 5, 9, 500)}
    assert rates == {0.3}


def test_line_falls_from_the_peak_towards_zero(make_expert: Callable[..., ExpertSpec]) -> None:
    """By hand for four steps."""
    spec = make_expert(schedule="linear", lr=2.0, steps=4)
    rates = [learning_rate(spec.hyperparameters, step=step) for step in range(5)]
    assert rates == [2.0, 1.5, 1.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 4.0, 4.0]),
        ("linear", [1.0, 2.0, 3.0, 4.0, 4.0, 3.0, 2.0, 1.0]),
        ("cosine", [1.0, 2.0, 3.0, 4.0, 4.0, 2 + math.sqrt(2), 2.0, 2 - math.sqrt(2)]),
    ],
)
def test_warmup_grows_to_the_peak_before_the_schedule_begins(
    make_expert: Callable[..., ExpertSpec], schedule: str, rates: list[float]
) -> None:
    """By hand: the first four of eight steps rise to the peak, and the other four fall."""
    spec = make_expert(schedule=schedule, lr=4.0, steps=8, warmup_steps=4)
    assert [learning_rate(spec.hyperparameters, step=step) for step in range(8)] == pytest.approx(
        rates
    )


def test_warmup_does_not_know_the_number_of_steps(make_expert: Callable[..., ExpertSpec]) -> None:
    """This also holds for a snapshot during the warmup."""
    short, long = (make_expert(steps=steps, warmup_steps=5).hyperparameters for steps in (3, 300))
    assert [learning_rate(short, step=step) for step in range(3)] == [
        learning_rate(long, step=step) for step in range(3)
    ]
