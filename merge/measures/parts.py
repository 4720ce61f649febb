"""The part of the result that each expert contributes, for operators that change task vectors.

Linear methods add task vectors as they are. Spectral methods merge matrices as wholes, and no part
of the result is one expert's. Neither have an entry here.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from merge.operators import breadcrumbs, dare, della, pcb
from merge.sign_election import Election, open_election
from merge.table import METHODS
from merge.weight import Weight, total

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from merge.protocols import Recipe

    Parts = Iterator[Sequence[Tensor]]
    PartsOf = Callable[[Weight, Recipe[Any, Any]], Parts]


def task_vectors(weight: Weight) -> Parts:
    """Yields every expert's task vector, block by block.

    Shapes: for each block, one tensor of (entries,) for each expert.
    """
    for block in weight.blocks:
        yield list(block.task_vectors())


def _thinned(weight: Weight, recipe: Recipe[Any, Any]) -> Parts:
    params = recipe.params
    for block in weight.blocks:
        yield [
            dare.thin(
                block, index, density=params.density, rescale=params.rescale, seed=recipe.seed
            )
            for index in range(weight.num_experts)
        ]


def _elected(weight: Weight, recipe: Recipe[Any, Any]) -> Parts:
    """Yields the trimmed values that have the elected sign."""
    election: Election = recipe.group_result or open_election(
        [weight], density=recipe.params.density, vector_of=Weight.task_vector
    )
    for block in weight.blocks:
        vectors = [each.clone() for each in election.trimmed(block)]
        signs = total(iter(vectors)).sign()
        magnitudes = total(each.abs() for each in vectors)
        if bool(((signs == 0) & (magnitudes > 0)).any()):
            signs += (signs == 0) * election.majority_sign
        yield [_agreeing(each, signs=signs) for each in vectors]


def _within_bands(weight: Weight, recipe: Recipe[Any, Any]) -> Parts:
    bands = [measured[weight.name] for measured in recipe.expert_results]
    for block in weight.blocks:
        vectors = zip(block.task_vectors(), bands, strict=True)
        yield [breadcrumbs.within(vector, band) for vector, band in vectors]


def _pruned(weight: Weight, recipe: Recipe[Any, Any]) -> Parts:
    for _, pruned in della.pruned_blocks(weight, recipe=recipe):
        vectors = list(pruned)
        signs = total(iter(vectors)).sign()
        yield [_agreeing(each, signs=signs) if recipe.params.elect else each for each in vectors]


def _used(weight: Weight, recipe: Recipe[Any, Any]) -> Parts:
    """Yields the entries that enough tasks use (consensus task arithmetic)."""
    for block in weight.blocks:
        vectors = list(block.task_vectors())
        sum_ = total(iter(vectors))
        least = recipe.params.tall_lambda
        used = [each.abs() >= (sum_ - each).abs() * least for each in vectors]
        is_used = torch.stack(used).sum(dim=0) >= recipe.params.min_tasks
        yield [each * is_used for each in vectors]


def _largest(weight: Weight, _: Recipe[Any, Any]) -> Parts:
    """Yields the entries of which an expert has the largest magnitude."""
    for block in weight.blocks:
        vectors = torch.stack(list(block.task_vectors()))
        winner = vectors.abs().argmax(dim=0)  # the first of equal magnitudes
        yield [vector * (winner == index) for index, vector in enumerate(vectors)]


def _weighed(weight: Weight, recipe: Recipe[Any, Any]) -> Parts:
    """Yields PCB's task vectors, times their weights and the number of experts."""
    for block in weight.blocks:
        scores = pcb.scores(block, recipe.expert_results)
        shares = [
            scale.weigh(each) for each, scale in zip(scores, recipe.group_result, strict=True)
        ]
        sum_ = total(iter(shares))
        sum_ += sum_ == 0
        vectors = zip(recipe.expert_results, block.task_vectors(), shares, strict=True)
        yield [
            range_.clamp(vector) * share / sum_ * weight.num_experts
            for range_, vector, share in vectors
        ]


def _of_tasks(weight: Weight, recipe: Recipe[Any, Any], *, method: str) -> Parts:
    """Yields the task vector of each task's own model."""
    combine = METHODS[method].combine_for_task
    assert combine is not None
    base = weight.base()
    yield [
        (combine(weight, task, recipe=recipe) - base).flatten()
        for task in range(weight.num_experts)
    ]


def _agreeing(vector: Tensor, *, signs: Tensor) -> Tensor:
    return vector * ((vector * signs) > 0)


PARTS: Mapping[str, PartsOf] = {
    "ties": _elected,
    "dare": _thinned,
    "dare_ties": _elected,
    "breadcrumbs": _within_bands,
    "della": _pruned,
    "consensus_ta": _used,
    "magmax": _largest,
    "pcb": _weighed,
    **{
        method: partial(_of_tasks, method=method)
        for method, functions in METHODS.items()
        if functions.combine_for_task is not None
    },
}
"""The parts of each method that changes task vectors. They are on the scale of task vectors: their
sum, or their mean, times the method's scaling is the merged vector, except for means over the
agreeing experts (TIES, DELLA), which divide further. For methods per task they are the vectors of
the tasks' models."""

WITHOUT_PARTS = frozenset({"tsv_m", "iso_c", "iso_cts", "wudi"})
"""Methods of which no part of the result is one expert's."""
