"""Computes the learning rate of each optimizer step."""

import math

from workers.specs.hyperparameters import Hyperparameters


def learning_rate(hyperparameters: Hyperparameters, *, step: int) -> float:
    """Returns the learning rate of a step, counted from 0.

    During the warmup the rate grows linearly: the first step has `lr / warmup_steps` and the last
    one `lr`. Afterwards the rate is constant or decays along half a cosine or a line. A decaying
    rate would reach 0 at the step after the last one.
    """
    peak, warmup_steps = hyperparameters.lr, hyperparameters.warmup_steps
    if step < warmup_steps:
        return peak * ((step + 1) / warmup_steps)
    if hyperparameters.schedule == "constant":
        return peak
    done_frac = (step - warmup_steps) / max(1, hyperparameters.steps - warmup_steps)
    if hyperparameters.schedule == "linear":
        return peak * (1 - done_frac)
    return peak * 0.5 * (1 + math.cos(math.pi * done_frac))
