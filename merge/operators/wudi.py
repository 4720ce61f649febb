"""WUDI: move the sum of the task vectors to where it interferes least with the tasks' inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merge.spectral import merge_matrices
from merge.weight import total

if TYPE_CHECKING:
    from collections.abc import Sequence

    from merge.parameters.spectral import WudiParams
    from merge.protocols import Recipe
    from merge.weight import Weight

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8
"""Adam's own defaults, which the authors use."""


@dataclass(frozen=True, kw_only=True)
class Interference:
    """The loss sum_i |(S + d - t_i) u_i^T|^2 of a step d away from the sum S of the t_i.

    u_i is t_i / |t_i|, whose rows stand for the task's inputs; for a task vector of zeros, u_i is
    zero.

    Shapes: task vectors and steps (m, n), N of them.
    """

    start: Tensor
    """The sum, (m, n)."""
    slope: Tensor
    """Half the gradient at the sum, (m, n)."""
    curvature: tuple[Tensor, ...]
    """Matrices whose product with a step is half the change of the gradient."""

    def gradient(self, step: Tensor) -> Tensor:
        """Returns the gradient at a step."""
        change = step
        for factor in self.curvature:
            change = change @ factor
        return change.add_(self.slope).mul_(2)


def combine(weight: Weight, *, recipe: Recipe[WudiParams, None]) -> Tensor:
    """Returns the base plus the task vector that Adam reaches from the sum.

    While the sums over the tasks are formed, memory holds all experts of one tensor twice. After
    that it holds n x n entries or, where N m is less than half of n, one copy of the experts.

    Shapes: that of the weight.
    Source: Cheng 2025, equation of the loss and algorithm 1; mean of the task vectors where the
        weight is no matrix. The gradient is computed in closed form, with the sum over the tasks
        formed once.
    Scope: tensor.
    """
    merged = partial(_merged, steps=recipe.params.steps, lr=recipe.params.lr)
    return merge_matrices(weight, merged=merged, scaling=1.0)


def interference(vectors: Sequence[Tensor]) -> Interference:
    """Sums the loss over the tasks, so that a step costs one product whatever their number.

    The slope is summed from differences to the sum, so a single task or orthogonal tasks give
    exactly zero. Otherwise Adam would make full steps out of rounding errors.
    """
    start = total(iter(vectors))
    slope = torch.zeros_like(start)
    inputs = torch.stack(list(vectors))
    for vector, rows in zip(vectors, inputs, strict=True):
        norm = torch.linalg.vector_norm(vector, dtype=torch.float64)
        if norm > 0:
            rows.div_(norm)
        # multi_dot takes the cheaper of the two orders.
        slope += torch.linalg.multi_dot((start - vector, rows.T, rows))
    rows = inputs.flatten(0, 1)
    num_rows, num_columns = rows.shape
    is_thin = 2 * num_rows < num_columns
    curvature = (rows.T, rows) if is_thin else (rows.T @ rows,)
    return Interference(start=start, slope=slope, curvature=curvature)


def _merged(weight: Weight, *, steps: int, lr: float) -> Tensor:
    loss = interference([vector.flatten(1) for vector in weight.task_vectors()])
    return _descend(loss, steps=steps, lr=lr).add_(loss.start)


def _descend(loss: Interference, *, steps: int, lr: float) -> Tensor:
    """Returns the position of Adam after its steps from zero."""
    moved = torch.zeros_like(loss.slope)
    mean, square = torch.zeros_like(moved), torch.zeros_like(moved)
    for number in range(1, steps + 1):
        gradient = loss.gradient(moved)
        mean.lerp_(gradient, 1 - _BETA1)
        square.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        root = (square / (1 - _BETA2**number)).sqrt_().add_(_EPS)
        moved.addcdiv_(mean, root, value=-lr / (1 - _BETA1**number))
    return moved
