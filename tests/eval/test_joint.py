"""Heads that answer together, against concatenation by hand; temperatures against a search."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.evaluate import evaluate_head
from eval.joint import MAX_TEMPERATURE, MIN_TEMPERATURE, fitted_temperature, joint_sums

SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


def random_logits(sizes: list[int], *, seed: int, num: int = 12) -> list[torch.Tensor]:
    """Returns logits of heads with some numbers of classes, (num, classes) each."""
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(num, size, generator=generator) for size in sizes]


def random_labels(size: int, *, seed: int, num: int = 12) -> np.ndarray:
    """Returns classes of a task."""
    return np.random.default_rng(seed).integers(size, size=num)


@given(sizes=SIZES, seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_sums_are_those_of_a_loop_over_images(sizes: list[int], seed: int) -> None:
    """The largest of all logits decides; the loss is that of one softmax over all classes."""
    place = seed % len(sizes)
    logits, labels = random_logits(sizes, seed=seed), random_labels(sizes[place], seed=seed)
    found = joint_sums(logits, place=place, labels=labels)
    num_correct, loss_sum = 0, 0.0
    for image, label in enumerate(labels):
        by_class = {
            (task, each): float(head[image, each])
            for task, head in enumerate(logits)
            for each in range(head.shape[1])
        }
        num_correct += max(by_class, key=lambda key: by_class[key]) == (place, int(label))
        total = math.fsum(map(math.exp, by_class.values()))
        loss_sum += math.log(total) - by_class[place, int(label)]
    assert found.num_examples == len(labels)
    assert found.num_correct == num_correct
    assert found.loss_sum == pytest.approx(loss_sum, rel=1e-5)


@given(size=st.integers(1, 6), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_one_task_has_its_own_sums(size: int, seed: int) -> None:
    """Without other heads, the joint score is the score under the own head."""
    (logits,) = random_logits([size], seed=seed)
    labels = random_labels(size, seed=seed)
    own = evaluate_head(torch.nn.Identity(), features=logits, labels=labels)
    assert joint_sums([logits], place=0, labels=labels) == own


@given(sizes=SIZES, seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_order_of_tasks_changes_nothing(sizes: list[int], seed: int) -> None:
    """Reversed heads decide alike where no two logits are equal."""
    place = seed % len(sizes)
    logits, labels = random_logits(sizes, seed=seed), random_labels(sizes[place], seed=seed)
    one = joint_sums(logits, place=place, labels=labels)
    other = joint_sums(logits[::-1], place=len(sizes) - 1 - place, labels=labels)
    assert one.num_correct == other.num_correct
    assert one.loss_sum == pytest.approx(other.loss_sum, rel=1e-6)


def test_first_of_equal_logits_decides() -> None:
    """The first task in the order, and in it the first class."""
    logits = [torch.tensor([[0.0, 2.0, 2.0]]), torch.tensor([[2.0, 1.0]])]
    right = [
        (place, label)
        for place, size in enumerate((3, 2))
        for label in range(size)
        if joint_sums(logits, place=place, labels=np.array([label])).num_correct
    ]
    assert right == [(0, 1)]


def test_nan_of_any_head_is_no_answer() -> None:
    """The image does not count, and the loss is NaN."""
    logits = [torch.tensor([[5.0, 0.0], [5.0, 0.0]]), torch.tensor([[math.nan], [0.0]])]
    found = joint_sums(logits, place=0, labels=np.array([0, 0]))
    assert found.num_correct == 1
    assert math.isnan(found.loss_sum)


@given(seed=st.integers(0, 1000), scale=st.floats(0.2, 5))
@settings(max_examples=20, deadline=None)
def test_temperature_has_the_least_loss(seed: int, scale: float) -> None:
    """No temperature of a fine grid has less; labels are drawn, so that the best one is inside."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(200, 4, generator=generator)
    labels = torch.multinomial((logits / scale).softmax(1), 1, generator=generator)[:, 0]
    found = fitted_temperature(logits, labels=labels.numpy())

    def loss(temperature: float) -> float:
        scaled = logits.double() / temperature
        return float(torch.nn.functional.cross_entropy(scaled, labels))

    grid = torch.logspace(math.log10(MIN_TEMPERATURE), math.log10(MAX_TEMPERATURE), 300)
    assert loss(found) <= min(map(loss, grid.tolist())) + 1e-12
    doubled = fitted_temperature(2 * logits, labels=labels.numpy())
    if 2 * MIN_TEMPERATURE < doubled < MAX_TEMPERATURE / 2:
        assert doubled == pytest.approx(2 * found, rel=1e-6)


@pytest.mark.parametrize(
    ("sign", "expected"), [(1, MIN_TEMPERATURE), (-1, MAX_TEMPERATURE), (math.inf, 1.0)]
)
def test_temperature_is_bounded(sign: float, expected: float) -> None:
    """A head that is always right, one that is always wrong, and one that is not finite."""
    logits = sign * torch.tensor([[4.0, -4.0], [-4.0, 4.0]])
    assert fitted_temperature(logits, labels=np.array([0, 1])) == pytest.approx(expected)
