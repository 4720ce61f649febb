"""Which training images a run keeps, and which of them each of its steps sees."""

import math

import numpy as np
import numpy.typing as npt

from workers.sampling.seeds import derive_seed


def training_subset(num_images: int, *, data_ratio: float, seed: int) -> npt.NDArray[np.int64]:
    """Returns which training images a data ratio keeps: nested, the smaller inside the larger.

    Shapes:
        returns: (ceil(data_ratio * num_images),), positions in the training split.
    """
    generator = np.random.default_rng(derive_seed(seed, "data ratio"))
    kept = math.ceil(data_ratio * num_images - 1e-9)
    return generator.permutation(num_images)[: max(1, kept)].astype(np.int64)


def batch_positions(
    subset: npt.NDArray[np.int64], *, step: int, batch_size: int, seed: int
) -> npt.NDArray[np.int64]:
    """Returns the images of one step: a cut out of an endless stream of shuffled epochs.

    Epochs follow one another without a short batch between them, so that every step has
    `batch_size` images, also where the subset is smaller than a batch.

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
