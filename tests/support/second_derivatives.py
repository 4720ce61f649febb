"""Exact products with a task's Hessian, by differentiating twice."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workers.measure.task_loss import TaskLoss


def exact_product(
    loss: TaskLoss, positions: npt.NDArray[np.int64], vector: Sequence[Tensor]
) -> list[Tensor]:
    """Returns the Hessian of the mean loss of some images times a vector, by parameter."""
    weights = loss._weights
    with torch.enable_grad():
        mean = loss._losses(positions).mean()
        gradients = torch.autograd.grad(mean, weights, create_graph=True)
        along = sum((each * part).sum() for each, part in zip(gradients, vector, strict=True))
        return list(torch.autograd.grad(along, weights))
