"""Composes the tasks that are plain arrays of handwritten digits and of garments."""

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
_UCI_LEVELS = 16  # above paper: blocks of 4 x 4 black or white pixels, counted


def compose_mnist(task: Task) -> dict[str, Split]:
    """Splits the 5,000 digits, which come unsplit, by class.

    Two tasks are made of these digits; both get this one split, so that no digit is trained on in
    one of them and tested in the other.
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
    """Takes the garments as they are: each split was drawn from the original's own split."""
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

    The file does not name its thirteen writers; should it go from one to the next, its two ends
    share hardly a hand.
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
    """Gives the split digits to the task that puts them on backdrops."""
    return compose_mnist(embedded_task("mnist_5k"))


def with_channel(images: Pixels) -> Pixels:
    """Gives greyscale images, (num, height, width), their channel axis."""
    return images[..., np.newaxis]
