"""Greedy soup: add experts to the mean, best first, if they do not lower the accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from merge.operators.average import mean
from merge.probe import expert_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from merge.parameters.with_data import GreedySoupParams
    from merge.probe import Probe, Tensors
    from merge.protocols import Recipe
    from merge.weight import Weight

Members = Sequence[int]
"""Positions of the experts in the soup, ascending."""


def learn(
    weights: Sequence[Weight], *, recipe: Recipe[GreedySoupParams, None], probe: Probe
) -> Members:
    """Returns the positions of the experts whose mean is the soup.

    Source: Wortsman 2022, recipe 1, whose models share one task. Here the group has several tasks:
        the mean accuracy over all tasks, each under its own head, decides both the order and the
        admission. Experts with equal accuracy keep the group's order.
    """
    num_images = recipe.params.images

    def score(tensors: Tensors) -> float:
        accuracies = probe.accuracies(tensors, num_images=num_images)
        return math.fsum(accuracies) / len(accuracies)

    everyone = range(weights[0].num_experts if weights else 0)
    alone = [score(expert_tensors(weights, index)) for index in everyone]
    by_score = sorted(everyone, key=lambda index: -alone[index])
    members, best = by_score[:1], max(alone, default=0.0)
    for candidate in by_score[1:]:
        tasted = sorted([*members, candidate])
        reached = score((weight.name, _mean(weight, tasted)) for weight in weights)
        if reached >= best:
            members, best = tasted, reached
    return members


def combine(weight: Weight, *, recipe: Recipe[GreedySoupParams, Members]) -> Tensor:
    """Returns the mean of the soup's experts.

    Shapes: that of the weight.
    Source: Wortsman 2022, recipe 1.
    Scope: tensor, with experts chosen over the model.
    """
    return _mean(weight, recipe.group_result)


def _mean(weight: Weight, members: Members) -> Tensor:
    return mean(weight.of_experts(members))
