"""Random streams, one per purpose, and the random assignment of images to splits."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLITS = ("train", "test")
"""The two splits of every task."""


def random_stream(*purpose: str) -> np.random.Generator:
    """Returns the generator of a purpose such as ``("mnist_m", "train")``, always the same."""
    seed = hashlib.sha256("/".join(purpose).encode()).digest()
    return np.random.default_rng(int.from_bytes(seed[:8], "big"))


def split_per_class(
    labels: NDArray[np.int64], *, num_train: int, num_test: int, rng: np.random.Generator
) -> dict[str, NDArray[np.int64]]:
    """Assigns positions to two disjoint stratified splits.

    Args:
        labels: Class of each position, (num,).
        num_train: Positions of each class in the training split.
        num_test: Positions of each class in the test split.
        rng: Generator that decides the assignment.
    """
    train, test = [], []
    for label in np.unique(labels):
        dealt = rng.permutation(np.flatnonzero(labels == label))
        assert len(dealt) >= num_train + num_test, f"class {label} has only {len(dealt)}"
        train.append(dealt[:num_train])
        test.append(dealt[num_train : num_train + num_test])
    return {"train": np.concatenate(train), "test": np.concatenate(test)}


def held_out(pool: list[int], *, frac: float, rng: np.random.Generator) -> dict[str, list[int]]:
    """Assigns the members of a pool to the splits, at least two of them to the test split."""
    dealt = [int(member) for member in rng.permutation(pool)]
    num_test = max(2, round(len(dealt) * frac))
    return {"train": dealt[num_test:], "test": dealt[:num_test]}
