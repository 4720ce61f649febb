"""Computes the learning rate of each optimizer step."""

import math

from workers.specs.training import ExpertSpec, PretrainSpec


def learning_rate(spec: ExpertSpec | PretrainSpec, *, step: int) -> float:
    """Returns the learning rate of a step, counted from 0.

    During the warmup the rate grows linearly: the first step has `lr / warmup_steps` and the last
    one `lr`. Afterwards the rate is constant or decays along half a cosine or a line. A decaying
    rate would reach 0 at the step after the last one.
    """
    if step < spec.warmup_steps:
        return spec.lr * ((step + 1) / spec.warmup_steps)
    if spec.schedule == "constant":
        return spec.lr
    done_frac = (step - spec.warmup_steps) / max(1, spec.steps - spec.warmup_steps)
    if spec.schedule == "linear":
        return spec.lr * (1 - done_frac)
    return spec.lr * 0.5 * (1 + math.cos(math.pi * done_frac))
