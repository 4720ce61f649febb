"""Choices that several merges share."""

import math

import pytest

from workers.artifacts.metrics import TriedPoint, TuningMetrics
from workers.merging.choice import NothingToChooseError, shared_choice


def tuning(*scores: tuple[float, float]) -> TuningMetrics:
    tried = tuple(
        TriedPoint(values={"scaling": float(place)}, loss=loss, accuracy=accuracy)
        for place, (loss, accuracy) in enumerate(scores)
    )
    return TuningMetrics(chosen=tried[0].values, tried=tried, num_images=30)


def test_the_mean_over_merges_decides() -> None:
    """Each merge alone prefers an end; together they prefer the middle by loss."""
    groups = [
        tuning((1.0, 0.9), (1.2, 0.5), (3.0, 0.1)),
        tuning((3.0, 0.8), (1.2, 0.5), (1.0, 0.2)),
    ]
    by_loss = shared_choice(groups, by="loss")
    assert by_loss.chosen == {"scaling": 1.0}
    assert [each.loss for each in by_loss.tried] == [2.0, 1.2, 2.0]
    assert by_loss.num_images == 60
    assert shared_choice(groups, by="accuracy").chosen == {"scaling": 0.0}


def test_a_value_that_fails_in_one_merge_is_not_chosen() -> None:
    """NaN in one group; with no other value there is nothing to choose."""
    broken = tuning((math.nan, 0.0), (2.0, 0.5))
    assert shared_choice([broken, tuning((0.1, 0.9), (2.0, 0.5))], by="loss").chosen == {
        "scaling": 1.0
    }
    with pytest.raises(NothingToChooseError, match="no value has a finite validation loss"):
        shared_choice([broken, tuning((2.0, 0.5), (math.nan, 0.0))], by="loss")


def test_no_merge_chooses_nothing() -> None:
    """Without any curve there is no value to name."""
    with pytest.raises(NothingToChooseError):
        shared_choice([], by="loss")
