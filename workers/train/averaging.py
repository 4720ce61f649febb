"""The mean over a run's weights that its expert may store in place of the last ones."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from workers.specs.training import AveragingSpec


class WeightAverage:
    """A mean of weights and buffers, taken in after every step of a run.

    BatchNorm's statistics are averaged as weights are; integers are those of the last step.
    """

    def __init__(self, spec: AveragingSpec, *, total_steps: int) -> None:
        """Begins empty.

        Args:
            spec: Which mean.
            total_steps: Steps of the run, of which `swa` begins at a fraction.
        """
        self._spec = spec
        self._start = math.floor(spec.swa_start * total_steps)
        self.tensors: dict[str, Tensor] = {}
        """The mean itself, by the names of the weights; empty before its first step."""

    def add(self, weights: Mapping[str, Tensor], *, step: int) -> None:
        """Takes the weights after a step into the mean.

        Args:
            weights: The model's, themselves; they are read only.
            step: Steps taken, of which the mean has begun.
        """
        if not self.tensors:
            self.tensors = {name: weight.detach().clone() for name, weight in weights.items()}
            return
        share = self._share(step)
        with torch.no_grad():
            for name, weight in weights.items():
                mean = self.tensors[name]
                if mean.is_floating_point():
                    mean.lerp_(weight, share)
                else:
                    mean.copy_(weight)

    def has_begun(self, step: int) -> bool:
        """Returns whether there is a mean after so many steps."""
        return self._spec.mode != "none" and step > self._start

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from a mean; the tensors become its own."""
        self.tensors = dict(tensors)

    def _share(self, step: int) -> float:
        """Returns what the newest weights make of the mean.

        For `ema`, (1 - decay) / (1 - decay^step): the weights of steps 1 to `step`, each counting
        decay times the one after it. Without the divisor the mean of a short run would be the base.
        """
        if self._spec.mode == "swa":
            return 1 / (step - self._start)
        decay = self._spec.ema_decay
        return (1 - decay) / (1 - decay**step)
