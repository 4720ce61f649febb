"""DARE followed by TIES: thin the task vectors at random, then trim, elect signs and merge."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from merge.operators.dare import thin
from merge.sign_election import Election, add_consensus, open_election

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from merge.parameters.sparse import DareTiesParams
    from merge.protocols import Recipe
    from merge.sign_election import VectorOf
    from merge.weight import Weight


def measure_group(weights: Sequence[Weight], *, recipe: Recipe[DareTiesParams, None]) -> Election:
    """Returns the election over the whole model's thinned task vectors."""
    return open_election(
        weights,
        density=recipe.params.trim_density,
        vector_of=_thinned(recipe),
        may_defer=recipe.may_defer,
    )


def combine(weight: Weight, *, recipe: Recipe[DareTiesParams, Election]) -> Tensor:
    """Returns the base plus the scaled consensus of the thinned and trimmed task vectors.

    Shapes: that of the weight.
    Source: Yu 2023, section 3.2, with Yadav 2023, algorithm 1, as FusionBench composes them: the
        trim's density is a fraction of all entries, dropped entries included.
    Scope: model.
    """
    params = recipe.params
    return add_consensus(
        weight, election=recipe.group_result, consensus=params.consensus, scaling=params.scaling
    )


def _thinned(recipe: Recipe[DareTiesParams, Any]) -> VectorOf:
    params = recipe.params
    return partial(thin, density=params.density, rescale=params.rescale, seed=recipe.seed)
