"""Scores a model whose heads answer together: the task of an image is not known.

The logits of the heads of all tasks are concatenated, and the largest decides about task and class.
Source: the "Joint" evaluation of ZipIt (Stoica 2024). Heads that were trained apart have different
scales; a temperature for each, fitted on validation images (Guo 2017), makes them comparable.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from eval.metrics import TaskSums

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""A head that is always right wants a temperature of 0, one that knows nothing an infinite one."""
_NUM_HALVINGS = 60
"""Halvings of the interval of log temperatures, after which it is as narrow as a float64."""


def joint_sums(logits: Sequence[Tensor], *, place: int, labels: npt.NDArray[np.int64]) -> TaskSums:
    """Sums correct answers and cross-entropy of all heads together over the images of one task.

    An image counts as correct if the largest of all logits is that of its class in its own task. If
    several logits are the largest, the first one decides: of the first task in the order of
    `logits`, and in it of the first class. An image with a NaN logit never counts.

    Args:
        logits: The logits of every task's head for these images, (images, classes of the task).
        place: Position of the images' own task in `logits`.
        labels: Their classes in it, (images,).
    """
    joined = torch.cat([each.float() for each in logits], dim=1)
    first_class = sum(each.shape[1] for each in logits[:place])
    expected = torch.from_numpy(labels.copy()).to(joined.device) + first_class
    losses = nn.functional.cross_entropy(joined, expected, reduction="none")
    # argmax treats NaN as the largest value: with NaN logits it would answer class 0.
    is_answer = ~joined.isnan().any(dim=1)
    return TaskSums(
        num_examples=len(labels),
        num_correct=int(((joined.argmax(dim=1) == expected) & is_answer).sum()),
        loss_sum=float(losses.double().sum()),
    )


def fitted_temperature(logits: Tensor, *, labels: npt.NDArray[np.int64]) -> float:
    """Returns the temperature T at which softmax(logits / T) has the least cross-entropy.

    The cross-entropy is convex in 1 / T, so its derivative is halved in on. T is between
    `MIN_TEMPERATURE` and `MAX_TEMPERATURE`; it is 1 if a logit is not finite.

    Args:
        logits: The logits of a task's head for images of the task, (images, classes).
        labels: Their classes, (images,).
    """
    if not bool(logits.isfinite().all()):
        return 1.0
    wide = logits.double().cpu()
    expected = wide.gather(1, torch.from_numpy(labels.copy())[:, None]).sum()

    def slope(temperature: float) -> float:
        """Returns the derivative of the summed cross-entropy by 1 / T."""
        return float(((wide / temperature).softmax(dim=1) * wide).sum() - expected)

    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    for _ in range(_NUM_HALVINGS):
        middle = (low + high) / 2
        if slope(math.exp(middle)) > 0:  # 1 / T is too large
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)
