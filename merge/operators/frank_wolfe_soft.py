"""Soft Frank-Wolfe merging: move step by step to the best mixture with the chosen experts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merge.combinations import combination, slopes_of_all
from merge.operators.adamerging import BETAS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from merge.operators.frank_wolfe import Coefficients
    from merge.parameters.with_data import FrankWolfeSoftParams
    from merge.probe import Probe
    from merge.protocols import Recipe
    from merge.weight import Weight


def learn(
    weights: Sequence[Weight], *, recipe: Recipe[FrankWolfeSoftParams, None], probe: Probe
) -> Coefficients:
    """Returns the coefficients of the task vectors after all moves from the base.

    A move theta + sum_j l_j (theta_j - theta) over the chosen experts j changes the coefficients c
    to (1 - sum_j l_j) c + sum_j l_j e_j. The state of the search is therefore one number per expert
    and weight, and memory holds only the model and its gradient. Each step of a move reads the
    experts that were chosen so far; each choice reads all experts once.

    Source: Chen 2025, the soft variant. It starts at the pretrained model, and the factors l
        minimise the same loss whose gradient chooses the experts. FusionBench's `fw_soft` (the
        authors' own code) chooses by cosines summed over the tensors, and by default its factors
        minimise the entropy on test images; that is `loss: entropy` here. All choices see the same
        images.
    """
    params = recipe.params
    num_experts = weights[0].num_experts if weights else 0
    held = torch.zeros(len(weights), num_experts, dtype=torch.float64)
    for iteration in range(params.iterations if weights else 0):
        chosen = _chosen(weights, held=held, params=params, probe=probe)
        if not bool(chosen.any()):  # no weight has a gradient
            break
        used = (chosen.any(dim=0) | held.any(dim=0)).nonzero().flatten().tolist()
        held[:, used] = _moved(
            held[:, used],
            by=_learned_move(
                # The choice has checked these experts for NaN, and the merge checks all tensors.
                [weight.of_experts(used).unchecked() for weight in weights],
                held=held[:, used],
                chosen=chosen[:, used],
                iteration=iteration,
                params=params,
                probe=probe,
            ),
        )
    return {weight.name: row for weight, row in zip(weights, held, strict=True)}


def combine(weight: Weight, *, recipe: Recipe[FrankWolfeSoftParams, Coefficients]) -> Tensor:
    """Returns the base plus the task vectors, each times its coefficient after all moves.

    Shapes: that of the weight.
    Source: Chen 2025, the soft variant.
    Scope: tensor, with coefficients found over the model.
    """
    return combination(weight, coefficients=recipe.group_result[weight.name].tolist())


def into_hull(rows: Tensor) -> Tensor:
    """Returns the nearest rows whose entries are at least 0 and sum to at most 1.

    A move with such factors ends in the convex hull of the model and the chosen experts.

    Shapes: (rows, entries) in and out.
    Source: Duchi 2008, Efficient Projections onto the l1-Ball, figure 1.
    """
    falling = rows.sort(dim=1, descending=True).values
    num_kept = torch.arange(1, rows.shape[1] + 1, dtype=rows.dtype)
    shifts = (falling.cumsum(dim=1) - 1) / num_kept
    last = (falling > shifts).sum(dim=1, keepdim=True) - 1
    inside = rows.clamp(min=0)
    is_inside = inside.sum(dim=1, keepdim=True) <= 1
    return torch.where(is_inside, inside, (rows - shifts.gather(1, last)).clamp(min=0))


def _chosen(
    weights: Sequence[Weight], *, held: Tensor, params: FrankWolfeSoftParams, probe: Probe
) -> Tensor:
    """Returns the experts that each weight moves to; of equals, the first.

    As in the hard variant, the model's own inner product with the gradient is the same for all
    experts. Where each tensor chooses, a tensor without a gradient does not move.

    Shapes:
        held: (weights, experts).
        returns: (weights, experts), bools.
    """
    chosen = torch.zeros_like(held, dtype=torch.bool)
    num_new = params.top_k or 1
    tasks: Sequence[int | None] = [None] if params.top_k else range(probe.num_tasks)
    for task in tasks:
        if bool(chosen.all()):
            break
        gradient = probe.gradient(
            _models(weights, held),
            loss="cross_entropy",
            batch=0,
            batch_size=params.images,
            task=task,
        )
        products = slopes_of_all(weights, gradient)
        choosing = torch.tensor([[weight.name in gradient] for weight in weights])
        if params.granularity == "model":
            products = products.sum(dim=0).expand_as(products)
            choosing = choosing.any().expand_as(choosing)
        order = products.masked_fill(chosen, math.inf).argsort(dim=1, stable=True)
        least = torch.zeros_like(chosen).scatter(1, order[:, :num_new], value=True)
        chosen |= least & choosing
    return chosen


def _learned_move(
    weights: Sequence[Weight],
    *,
    held: Tensor,
    chosen: Tensor,
    iteration: int,
    params: FrankWolfeSoftParams,
    probe: Probe,
) -> Tensor:
    """Returns the factors l of a move after steps of Adam in float64; 0 for experts not chosen.

    Shapes:
        held, chosen, returns: (weights, experts).
    """
    initial = params.initial if iteration == 0 else params.initial_later
    free = initial * chosen.double()
    if params.in_hull:
        free = into_hull(free)
    optimizer = torch.optim.Adam([free.requires_grad_()], lr=params.lr, betas=BETAS)
    for step in range(params.steps):
        gradient = probe.gradient(
            _models(weights, _moved(held, by=free.detach())),
            loss=params.loss,
            batch=iteration * params.steps + step,
            batch_size=params.batch_size,
        )
        products = slopes_of_all(weights, gradient)
        free.grad = (products - (products * held).sum(dim=1, keepdim=True)) * chosen
        optimizer.step()
        if params.in_hull:
            free.data = into_hull(free.data)
    return free.detach()


def _moved(held: Tensor, *, by: Tensor) -> Tensor:
    return (1 - by.sum(dim=1, keepdim=True)) * held + by


def _models(weights: Sequence[Weight], rows: Tensor) -> Iterator[tuple[str, Tensor]]:
    return (
        (weight.name, combination(weight, coefficients=row.tolist()))
        for weight, row in zip(weights, rows, strict=True)
    )
