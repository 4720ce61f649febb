"""Merges experts one by one in plain loops, as a user's script does: a part of `naive_study.py`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from merge.operators.dare import MASK_ENTRIES, bernoulli, digest_of

Weights = dict[str, Tensor]
Merge = Callable[[Weights, Sequence[Weights], Mapping[str, Any], int], Weights]
"""Merges the weights, which are all floats, with the method's parameters and a seed."""


def merged(
    base: Weights, experts: Sequence[Weights], *, merge: Merge, config: dict[str, Any], seed: int
) -> Weights:
    """Merges weights with the method, averages running statistics, keeps the largest counter."""
    result = {}
    trained = [name for name in base if not name.endswith(("_mean", "_var", "_tracked"))]
    for name in base.keys() - set(trained):
        stacked = torch.stack([expert[name] for expert in experts])
        result[name] = stacked.mean(0) if stacked.is_floating_point() else stacked.amax(0)
    weights = [{name: model[name] for name in trained} for model in (base, *experts)]
    return {**result, **merge(weights[0], weights[1:], config["params"], seed)}


def average(base: Weights, experts: Sequence[Weights], _: Mapping[str, Any], __: int) -> Weights:
    """Returns the mean of the experts."""
    return {name: torch.stack([each[name] for each in experts]).mean(0) for name in base}


def task_arithmetic(
    base: Weights, experts: Sequence[Weights], params: Mapping[str, Any], _: int
) -> Weights:
    """Adds the scaled sum of the task vectors to the base."""
    result = {}
    for name, start in base.items():
        total = torch.zeros_like(start)
        for expert in experts:
            total += expert[name] - start
        result[name] = start + params["scaling"] * total
    return result


def dare(
    base: Weights, experts: Sequence[Weights], params: Mapping[str, Any], seed: int
) -> Weights:
    """Drops entries of the task vectors at random, rescales the others and adds them."""
    result = {}
    for name, start in base.items():
        total = torch.zeros_like(start)
        for index, expert in enumerate(experts):
            kept = random_mask(name, start, expert=index, density=params["density"], seed=seed)
            total += (expert[name] - start) * kept / params["density"]
        result[name] = start + params["scaling"] * total
    return result


def random_mask(name: str, tensor: Tensor, *, expert: int, density: float, seed: int) -> Tensor:
    """Returns the mask that mergesweep draws, so that the results can be compared."""
    flags = [
        bernoulli(
            min(MASK_ENTRIES, tensor.numel() - start),
            chance=density,
            digest=digest_of(name, block=start // MASK_ENTRIES, expert=expert, seed=seed),
        )
        for start in range(0, tensor.numel(), MASK_ENTRIES)
    ]
    return torch.from_numpy(np.concatenate(flags)).view(tensor.shape)


def ties(base: Weights, experts: Sequence[Weights], params: Mapping[str, Any], _: int) -> Weights:
    """Trims over the whole model, elects signs, adds the values that agree."""
    start = torch.cat([each.flatten() for each in base.values()])
    trimmed = []
    for expert in experts:
        vector = torch.cat([each.flatten() for each in expert.values()]) - start
        num_dropped = len(vector) - round(params["density"] * len(vector))
        least = vector.abs().kthvalue(num_dropped + 1).values
        trimmed.append(torch.where(vector.abs() >= least, vector, 0))
    stacked = torch.stack(trimmed)
    signs = stacked.sum(0).sign()
    signs = torch.where(signs == 0, signs.sum().sign(), signs)
    agreeing = torch.where(stacked.sign() == signs, stacked, 0).sum(0)
    flat = start + params["scaling"] * agreeing
    pieces = flat.split([each.numel() for each in base.values()])
    return {name: piece.view(base[name].shape) for name, piece in zip(base, pieces, strict=True)}


MERGES: dict[str, Merge] = {
    "average": average,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
    "dare": dare,
}
