"""TIES: trim each task vector, elect a sign for every entry, merge the values that have it.

`merge.sign_election` trims, elects the signs and merges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge.deferred import DeferredEntries
from merge.sign_election import Election, add_consensus, open_election, threshold
from merge.weight import Weight

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from merge.parameters.sparse import TiesParams
    from merge.protocols import Recipe


def measure_expert(
    weights: Sequence[Weight], index: int, *, recipe: Recipe[TiesParams, None]
) -> float | None:
    """Returns an expert's threshold over the model, or None where each tensor has its own."""
    if recipe.params.scope == "tensor":
        return None
    unchecked = [weight.unchecked() for weight in weights]  # the sums show NaN and inf
    density = recipe.params.density
    return threshold(unchecked, index, density=density, vector_of=Weight.task_vector)


def measure_group(
    weights: Sequence[Weight], *, recipe: Recipe[TiesParams, None]
) -> Election | None:
    """Returns the election over the whole model, or None where each tensor has its own."""
    if recipe.params.scope == "tensor":
        return None
    return Election(
        weights=weights,
        thresholds=recipe.expert_results,
        vector_of=Weight.task_vector,
        may_defer=recipe.may_defer,
    )


def combine(weight: Weight, *, recipe: Recipe[TiesParams, Election | None]) -> Tensor:
    """Returns the base plus the scaled consensus of the trimmed task vectors.

    Shapes: that of the weight.
    Source: Yadav 2023, algorithm 1. Where magnitudes tie, this keeps all entries as large as the
        last one that the density allows, so that no entry's position decides. Consensus `sum` is
        FusionBench's and AdaMerging's.
    Scope: model or tensor, as the parameters say.
    """
    params = recipe.params
    election = recipe.group_result or open_election(
        [weight], density=params.density, vector_of=Weight.task_vector
    )
    return add_consensus(
        weight, election=election, consensus=params.consensus, scaling=params.scaling
    )


def deferred_entries(*, recipe: Recipe[TiesParams, Election | None]) -> Iterator[DeferredEntries]:
    """Yields the entries whose trimmed values cancel, merged with the majority sign."""
    election = recipe.group_result
    if election is None or election.majority_sign == 0:
        return
    for each in election.undecided:
        agreeing = each.by_sign[election.majority_sign]
        values = agreeing.mul_(recipe.params.scaling).add_(each.base)
        yield DeferredEntries(name=each.name, positions=each.positions, values=values)
