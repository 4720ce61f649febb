"""Subsets of training images, and the images of each training step."""

import math

import numpy as np
import numpy.typing as npt

from workers.sampling.seeds import derive_seed


def training_subset(num_images: int, *, data_ratio: float, seed: int) -> npt.NDArray[np.int64]:
    """Returns the training images that a data ratio keeps; smaller ratios keep a subset.

    Shapes:
        returns: (ceil(data_ratio * num_images),), positions in the training split, 1 or more.
    """
    kept = num_in_subset(num_images, data_ratio=data_ratio)
    return training_order(num_images, seed=seed)[:kept]


def training_order(num_images: int, *, seed: int) -> npt.NDArray[np.int64]:
    """Returns the training images in the order in which growing data ratios add them.

    Shapes:
        returns: (num_images,), positions in the training split.
    """
    generator = np.random.default_rng(derive_seed(seed, "data ratio"))
    return generator.permutation(num_images).astype(np.int64)


def num_in_subset(num_images: int, *, data_ratio: float) -> int:
    """Returns the number of training images that a data ratio keeps, 1 or more."""
    return max(1, math.ceil(data_ratio * num_images - 1e-9))


def batch_positions(
    subset: npt.NDArray[np.int64], *, step: int, batch_size: int, seed: int
) -> npt.NDArray[np.int64]:
    """Returns the images of one step, a slice of an endless sequence of shuffled epochs.

    A batch may span two epochs, so that every step has `batch_size` images, even if the subset is
    smaller than a batch.

    Shapes:
        returns: (batch_size,).
    """
    start, stop = step * batch_size, (step + 1) * batch_size
    size = len(subset)
    pieces = []
    for epoch in range(start // size, (stop - 1) // size + 1):
        order = np.random.default_rng(derive_seed(seed, "epoch", epoch)).permutation(size)
        offset = epoch * size
        pieces.append(subset[order[max(0, start - offset) : stop - offset]])
    return np.concatenate(pieces)
