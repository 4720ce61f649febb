"""Averages the weights over a training's steps; an expert can store the mean."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from workers.specs.hyperparameters import Hyperparameters


class WeightAverage:
    """A running mean of weights and buffers, updated after every optimizer step.

    BatchNorm's statistics are averaged like weights. Integer buffers are copied from the last step.
    """

    def __init__(self, hyperparameters: Hyperparameters) -> None:
        self._kind = hyperparameters.average_weights
        self._ema_decay = hyperparameters.ema_decay
        self._start = math.floor(hyperparameters.swa_start * hyperparameters.steps)
        self.tensors: dict[str, Tensor] = {}
        """The mean, by the names of the weights; empty before the first update."""

    def add(self, weights: Mapping[str, Tensor], *, step: int) -> None:
        """Updates the mean with the weights after a step.

        Args:
            weights: The model's own tensors, which are only read.
            step: Steps taken so far. `has_begun(step)` must hold.
        """
        if not self.tensors:
            self.tensors = {name: weight.detach().clone() for name, weight in weights.items()}
            return
        newest_frac = self._newest_frac(step)
        with torch.no_grad():
            for name, weight in weights.items():
                mean = self.tensors[name]
                if mean.is_floating_point():
                    mean.lerp_(weight, newest_frac)
                else:
                    mean.copy_(weight)

    def has_begun(self, step: int) -> bool:
        """Returns whether the mean exists after a number of steps."""
        return self._kind != "none" and step > self._start

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continues from an earlier mean, whose tensors this object then owns."""
        self.tensors = dict(tensors)

    def _newest_frac(self, step: int) -> float:
        """Returns the weight of the newest tensors in the mean.

        For `ema` this is (1 - decay) / (1 - decay^step): steps 1 to `step` count, each `decay`
        times as much as the next one. Without the divisor, the mean of a short training would stay
        close to the base.
        """
        if self._kind == "swa":
            return 1 / (step - self._start)
        return (1 - self._ema_decay) / (1 - self._ema_decay**step)
