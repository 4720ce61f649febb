import math
from collections.abc import Callable

import pytest

from workers.schedules import learning_rate
from workers.specs import ExpertSpec


def test_cosine_falls_from_the_peak_towards_zero(make_expert: Callable[..., ExpertSpec]) -> None:
    """By hand for four steps: 1, (1 + cos 45 degrees) / 2, 1/2, (1 - cos 45 degrees) / 2."""
    spec = make_expert(schedule="cosine", lr=2.0, steps=4)
    rates = [learning_rate(spec, step=step) for step in range(4)]
    half = math.sqrt(0.5)
    assert rates == pytest.approx([2.0, 1 + half, 1.0, 1 - half])
    assert learning_rate(spec, step=4) == pytest.approx(0.0)


def test_constant_schedule_does_not_know_the_number_of_steps(
    make_expert: Callable[..., ExpertSpec],
) -> None:
    """Snapshots of one run rely on it."""
    rates = {learning_rate(make_expert(lr=0.3, steps=10), step=step) for step in (0, 5, 9, 500)}
    assert rates == {0.3}
