"""The accumulation vector of a training, from its hyperparameters; without torch."""

import math
from functools import lru_cache

from eval.theory.accumulation import Accumulation, adam, ema_weights, sgd, swa_weights
from workers.specs.hyperparameters import Hyperparameters, TrainingConstants
from workers.train.schedules import learning_rate

_MAX_KEPT = 512
"""Vectors of a study's settings that a process keeps; one of 4,000 steps takes 64 kB."""


@lru_cache(maxsize=_MAX_KEPT)
def accumulation_of(hyperparameters: Hyperparameters, constants: TrainingConstants) -> Accumulation:
    """Returns how much the gradient of each step counts in the expert's weights.

    Adam's vector is that of its first moment, under a frozen preconditioner. The decay of `adam`
    goes through the preconditioner and is left out; that of `adamw` counts. Sharpness-aware steps
    count as steps of the optimizer, with the gradient of another loss.
    """
    steps, lr = hyperparameters.steps, hyperparameters.lr
    rates = [learning_rate(hyperparameters, step=step) / lr for step in range(steps)]
    iterates = None
    if steps and hyperparameters.average_weights == "swa":
        iterates = swa_weights(steps, start=math.floor(hyperparameters.swa_start * steps))
    if steps and hyperparameters.average_weights == "ema":
        iterates = ema_weights(steps, decay=hyperparameters.ema_decay)
    decay = lr * hyperparameters.weight_decay
    if hyperparameters.optimizer == "sgd":
        return sgd(
            rates,
            momentum=constants.momentum,
            nesterov=constants.nesterov,
            weight_decay=decay,
            iterate_weights=iterates,
        )
    return adam(
        rates,
        first_decay=constants.momentum,
        weight_decay=decay if hyperparameters.optimizer == "adamw" else 0.0,
        iterate_weights=iterates,
    )
