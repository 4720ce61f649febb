"""Composes the tasks that are plain arrays of handwritten digits and of garments."""

from __future__ import annotations

import numpy as np

from eval.embedded.draws import SPLITS, split_per_class, stream
from eval.embedded.vendored import Pixels, read_arrays
from eval.images import Split
from eval.tasks import Task, find_task

_MNIST = "digits/mnist_5k.npz"
_FASHION = "digits/fashion_mnist_5k.npz"


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
        rng=stream("mnist_5k", "split"),
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


def mnist_digits() -> dict[str, Split]:
    """Gives the split digits to the task that puts them on backdrops."""
    return compose_mnist(find_task("mnist_5k"))


def with_channel(images: Pixels) -> Pixels:
    """Gives greyscale images, (num, height, width), their channel axis."""
    return images[..., np.newaxis]
