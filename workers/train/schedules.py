"""The learning rate of each step of a run."""

import math

from workers.specs.training import ExpertSpec, PretrainSpec


def learning_rate(spec: ExpertSpec | PretrainSpec, *, step: int) -> float:
    """Returns the learning rate of a step, counted from 0.

    It grows linearly over the warmup, the first step having a part of it already and the last one
    the peak. Then it is constant, or falls over the steps that are left along half a cosine or a
    line, either of which would be 0 at the step after the last.
    """
    if step < spec.warmup_steps:
        return spec.lr * ((step + 1) / spec.warmup_steps)
    if spec.schedule == "constant":
        return spec.lr
    done_frac = (step - spec.warmup_steps) / max(1, spec.steps - spec.warmup_steps)
    if spec.schedule == "linear":
        return spec.lr * (1 - done_frac)
    return spec.lr * 0.5 * (1 + math.cos(math.pi * done_frac))
