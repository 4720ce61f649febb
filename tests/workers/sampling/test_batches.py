from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from workers.sampling.batches import batch_positions, training_subset


@pytest.mark.parametrize(
    ("data_ratio", "size"),
    [(1.0, 1000), (0.5, 500), (0.1, 100), (0.3, 300), (0.0301, 31), (0.001, 1), (0.0001, 1)],
)
def test_subset_has_the_share_asked_for_rounded_up(data_ratio: float, size: int) -> None:
    """0.3 of 1000 is 300, although 0.3 * 1000 is slightly more in binary; at least one image."""
    subset = training_subset(1000, data_ratio=data_ratio, seed=0)
    assert len(subset) == size
    assert len(set(subset.tolist())) == size
    assert set(subset.tolist()) <= set(range(1000))


def test_smaller_subset_lies_inside_the_larger() -> None:
    """A larger data ratio only adds images."""
    ratios = (0.01, 0.1, 0.25, 0.5, 1.0)
    subsets = [set(training_subset(777, data_ratio=ratio, seed=3).tolist()) for ratio in ratios]
    assert all(small < large for small, large in pairwise(subsets))


def test_subset_depends_on_the_seed_alone() -> None:
    """Only another seed keeps other images."""
    first = training_subset(500, data_ratio=0.1, seed=0).tolist()
    assert training_subset(500, data_ratio=0.1, seed=0).tolist() == first
    assert training_subset(500, data_ratio=0.1, seed=1).tolist() != first


@pytest.mark.parametrize("batch_size", [1, 4, 7, 10, 23, 64])
def test_every_epoch_has_each_image_once(batch_size: int) -> None:
    """This holds if batches span epochs, and if a batch is larger than the subset."""
    subset = np.array([3, 5, 8, 13, 21, 34, 55, 89, 144, 233])
    stream = np.concatenate(
        [batch_positions(subset, step=step, batch_size=batch_size, seed=0) for step in range(40)]
    )
    assert len(stream) == 40 * batch_size
    epochs = [stream[start : start + 10] for start in range(0, len(stream) - 9, 10)]
    assert all(sorted(epoch.tolist()) == subset.tolist() for epoch in epochs)
    assert max(Counter(stream.tolist()).values()) <= len(stream) // 10 + 1


def test_epochs_are_shuffled_anew_and_by_seed() -> None:
    """Each epoch and each seed has another order."""
    subset = np.arange(20)
    orders = {
        tuple(batch_positions(subset, step=epoch, batch_size=20, seed=seed).tolist())
        for epoch in range(3)
        for seed in range(3)
    }
    assert len(orders) == 9


def test_sequence_of_images_does_not_depend_on_the_batch_size() -> None:
    """One step of 8 images has the same images as two steps of 4."""
    subset = np.arange(11)
    whole = batch_positions(subset, step=2, batch_size=8, seed=0)
    halves = [batch_positions(subset, step=step, batch_size=4, seed=0) for step in (4, 5)]
    assert np.concatenate(halves).tolist() == whole.tolist()
