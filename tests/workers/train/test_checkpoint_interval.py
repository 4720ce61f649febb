from collections.abc import Callable

import numpy as np
import pytest
import torch
from manual_clock import ManualClock

from workers.train.checkpoint_interval import (
    GUESSED_BYTES_PER_S,
    MAX_COST_FRAC,
    CheckpointInterval,
)
from workers.train.trainer import Trainer


class Clock(ManualClock):
    """A clock that writes advance."""

    def spend(self, seconds: float, *, succeed: bool = True) -> bool:
        """Advances the clock as a write does, and returns whether the write succeeds."""
        self.now_s += seconds
        return succeed


def test_no_checkpoint_before_the_interval(start: Callable[[], Trainer]) -> None:
    """Even a cheap checkpoint (2 kB) waits for the least interval."""
    clock = Clock(1000.0)
    interval = CheckpointInterval(min_interval_s=30, clock=clock)
    clock.now_s += 29.9
    assert not interval.is_due(start())
    clock.now_s += 0.2
    assert interval.is_due(start())


def test_first_checkpoint_waits_by_its_bytes(
    start: Callable[[], Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One gigabyte at 100 MB/s takes 10 s, which is two percent of 500 s."""
    giant = {"weights": torch.empty(250_000_000, device="meta")}
    monkeypatch.setattr(Trainer, "state", lambda _: giant)
    clock = Clock(1000.0)
    interval = CheckpointInterval(min_interval_s=30, clock=clock)
    clock.now_s += 1e9 / GUESSED_BYTES_PER_S / MAX_COST_FRAC - 1
    assert not interval.is_due(start())
    clock.now_s += 2
    assert interval.is_due(start())


def test_expensive_checkpoint_puts_the_next_one_off(start: Callable[[], Trainer]) -> None:
    """Three seconds are two percent of 150 s, counted from the end of the write."""
    clock, trainer = Clock(1000.0), start()
    interval = CheckpointInterval(min_interval_s=30, clock=clock)
    interval.measure(lambda: clock.spend(3))
    clock.now_s += 149
    assert not interval.is_due(trainer)
    clock.now_s += 2
    assert interval.is_due(trainer)


def test_cheap_checkpoint_halves_the_cost_at_most(start: Callable[[], Trainer]) -> None:
    """One fast answer of a slow store counts only half."""
    clock, trainer = Clock(1000.0), start()
    interval = CheckpointInterval(min_interval_s=30, clock=clock)
    interval.measure(lambda: clock.spend(8))
    interval.measure(lambda: clock.spend(0.1))
    clock.now_s += 4 / MAX_COST_FRAC - 1
    assert not interval.is_due(trainer)
    clock.now_s += 2
    assert interval.is_due(trainer)


def test_failed_write_is_tried_again_an_interval_later(start: Callable[[], Trainer]) -> None:
    """A minute of retries does not count as a checkpoint's duration."""
    clock, trainer = Clock(1000.0), start()
    interval = CheckpointInterval(min_interval_s=30, clock=clock)
    clock.now_s += 31
    assert interval.is_due(trainer)
    interval.measure(lambda: clock.spend(60, succeed=False))
    assert not interval.is_due(trainer)
    clock.now_s += 31
    assert interval.is_due(trainer)


@pytest.mark.parametrize("seed", range(5))
def test_long_trial_spends_under_three_percent(start: Callable[[], Trainer], seed: int) -> None:
    """The store's speed varies by a factor of ten; steps take 0.1 to 2 s."""
    draws, clock, trainer = np.random.default_rng(seed), Clock(1000.0), start()
    interval = CheckpointInterval(min_interval_s=10, clock=clock)
    spent_s, num_written, began_s = 0.0, 0, clock()
    step_s = float(draws.uniform(0.1, 2))
    while clock() - began_s < 20_000:
        clock.now_s += step_s
        if interval.is_due(trainer):
            cost_s = float(draws.uniform(0.3, 3))
            interval.measure(lambda cost_s=cost_s: clock.spend(cost_s))  # type: ignore[misc]
            spent_s, num_written = spent_s + cost_s, num_written + 1
    assert num_written > 100
    assert spent_s / (clock() - began_s) < 0.03
