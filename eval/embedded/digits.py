"""Composes the tasks whose sources are arrays: handwritten digits and garments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from eval.embedded.index import embedded_task
from eval.embedded.randomness import SPLITS, random_stream, split_per_class
from eval.embedded.vendored import Pixels, read_arrays
from eval.images.split import Split

if TYPE_CHECKING:
    from eval.tasks import Task

_MNIST = "digits/mnist_5k.npz"
_FASHION = "digits/fashion_mnist_5k.npz"
_UCI = "digits/uci_digits.npz"
_UCI_LEVELS = 16  # pixels in a block of 4 x 4, of which the source counts the black ones


def compose_mnist(task: Task) -> dict[str, Split]:
    """Splits the 5,000 digits by class; the source has no splits.

    Two tasks use these digits. Both get this split, so no digit is in the training split of one and
    in the test split of the other.
    """
    arrays = read_arrays(_MNIST)
    labels = arrays["labels"].astype(np.int64)
    dealt = split_per_class(
        labels,
        num_train=task.num_train // task.num_classes,
        num_test=task.num_test // task.num_classes,
        rng=random_stream("mnist_5k", "split"),
    )
    return {
        split: Split(images=with_channel(arrays["images"][chosen]), labels=labels[chosen])
        for split, chosen in dealt.items()
    }


def compose_fashion(_task: Task) -> dict[str, Split]:
    """Returns the garments of the source, whose splits come from Fashion-MNIST's own splits."""
    arrays = read_arrays(_FASHION)
    return {
        split: Split(
            images=with_channel(arrays[f"{split}_images"]),
            labels=arrays[f"{split}_labels"].astype(np.int64),
        )
        for split in SPLITS
    }


def compose_uci(task: Task) -> dict[str, Split]:
    """Takes the first digits of each class for training and the last for the test.

    The source does not identify its thirteen writers. If it lists one writer after another, the two
    ends share at most one of them.
    """
    arrays = read_arrays(_UCI)
    grey = np.rint(arrays["images"] * (255 / _UCI_LEVELS)).astype(np.uint8)
    num_train, num_test = (n // task.num_classes for n in (task.num_train, task.num_test))
    places = [np.flatnonzero(arrays["labels"] == label) for label in range(task.num_classes)]
    assert min(map(len, places)) >= num_train + num_test, "the splits would overlap"
    chosen = {
        "train": np.concatenate([place[:num_train] for place in places]),
        "test": np.concatenate([place[-num_test:] for place in places]),
    }
    return {
        split: Split(
            images=with_channel(grey[chosen[split]]),
            labels=arrays["labels"][chosen[split]].astype(np.int64),
        )
        for split in SPLITS
    }


def mnist_digits() -> dict[str, Split]:
    """Returns the digits of the MNIST task, for the task that puts them on backdrops."""
    return compose_mnist(embedded_task("mnist_5k"))


def with_channel(images: Pixels) -> Pixels:
    """Adds the channel axis to greyscale images, (num, height, width)."""
    return images[..., np.newaxis]
