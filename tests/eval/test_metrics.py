import json
import math

import pytest

from eval.metrics import TaskSums, macro_mean, union_mean

SMALL = TaskSums(num_examples=10, num_correct=9, loss_sum=2.0)
LARGE = TaskSums(num_examples=90, num_correct=45, loss_sum=90.0)


def test_accuracy_and_loss_are_means_over_images() -> None:
    """By hand: 9 of 10, and 2 nats over 10 images."""
    assert SMALL.accuracy == pytest.approx(0.9)
    assert SMALL.loss == pytest.approx(0.2)


def test_macro_mean_counts_every_task_the_same() -> None:
    """By hand: (0.9 + 0.5) / 2 and (0.2 + 1) / 2."""
    assert macro_mean([SMALL, LARGE]).accuracy == pytest.approx(0.7)
    assert macro_mean([SMALL, LARGE]).loss == pytest.approx(0.6)


def test_union_mean_counts_every_image_the_same() -> None:
    """By hand: 54 of 100 images, and 92 nats over 100."""
    assert union_mean([SMALL, LARGE]).accuracy == pytest.approx(0.54)
    assert union_mean([SMALL, LARGE]).loss == pytest.approx(0.92)


def test_two_means_agree_on_tasks_of_one_size() -> None:
    """The means differ only if the numbers of images differ."""
    other = TaskSums(num_examples=10, num_correct=3, loss_sum=20.0)
    assert macro_mean([SMALL, other]).accuracy == pytest.approx(union_mean([SMALL, other]).accuracy)
    assert macro_mean([SMALL, other]).loss == pytest.approx(union_mean([SMALL, other]).loss)


def test_loss_that_is_not_finite_spoils_both_means_and_no_accuracy() -> None:
    """A NaN loss shows in the mean losses and leaves the accuracies intact."""
    broken = TaskSums(num_examples=10, num_correct=1, loss_sum=math.nan)
    for mean in (macro_mean([SMALL, broken]), union_mean([SMALL, broken])):
        assert math.isnan(mean.loss)
        assert mean.accuracy == pytest.approx(0.5)


@pytest.mark.parametrize("mean", [macro_mean, union_mean])
def test_mean_over_no_task_is_refused(mean: type) -> None:
    """The mean is undefined, and 0 would look like a value."""
    with pytest.raises(ValueError, match="at least one task"):
        mean([])


@pytest.mark.parametrize("loss_sum", [math.nan, math.inf, -math.inf])
def test_loss_that_is_not_finite_is_null_in_json(loss_sum: float) -> None:
    """JSON has no NaN; null is read as NaN."""
    sums = TaskSums(num_examples=10, num_correct=1, loss_sum=loss_sum)
    text = json.dumps(sums.to_json(), allow_nan=False)
    assert json.loads(text)["loss_sum"] is None
    assert math.isnan(TaskSums.from_json(json.loads(text)).loss_sum)


def test_sums_come_back_from_json_exactly() -> None:
    """Means are derived from stored sums, so no bit may be lost."""
    sums = TaskSums(num_examples=3, num_correct=1, loss_sum=0.1 + 0.2)
    assert TaskSums.from_json(json.loads(json.dumps(sums.to_json()))) == sums
