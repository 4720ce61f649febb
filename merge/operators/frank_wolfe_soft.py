"""Soft Frank-Wolfe merging: step by step to the best mixture with the experts that promise most."""

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
    """Returns the coefficients of the task vectors after some moves from the base.

    A move theta + sum_j l_j (theta_j - theta) over the experts j that were chosen for it takes the
    coefficients c to (1 - sum_j l_j) c + sum_j l_j e_j. So that is all that is carried on, and
    nothing else is held than the model and its gradient. A step of a move reads the experts that
    were ever chosen; the others are read once a choice.

    Source: Chen 2025, the soft variant: it starts at the pretrained model, and l minimises the same
        loss whose gradient chooses. FusionBench's `fw_soft` (the authors' own code) chooses by
        cosines, summed over the tensors, and l minimises the entropy on test images unless told
        otherwise; that is `loss: entropy` here. All choices see the same images.
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
                # The choice looked for NaN in what it read, and the merge itself looks everywhere.
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
    """Returns the base plus the task vectors, each times the coefficient that the moves gave it.

    Shapes: that of the weight.
    Source: Chen 2025, the soft variant.
    Scope: tensor, with coefficients found over the model.
    """
    return combination(weight, coefficients=recipe.statistics[weight.name].tolist())


def into_hull(rows: Tensor) -> Tensor:
    """Returns the nearest rows whose entries are 0 or more and sum to 1 or less.

    Such a move ends between the model and the experts chosen.

    Shapes: (rows, entries), and so the result.
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
    """Returns which experts each weight moves to; equals go to the first.

    As in the hard variant the model's own product with the gradient is the same for all, and a
    weight without a gradient has no reason to move where each tensor chooses.

    Shapes: held: (weights, experts). returns: the same, of bools.
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
    """Returns the factors l of a move, after steps of Adam in float64; 0 where none was chosen.

    Shapes: held, chosen: (weights, experts). returns: the same.
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
