"""DARE followed by TIES: random thinning, then trim, election and consensus."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from merge.operators.dare import thin
from merge.operators.ties import agree
from merge.sign_election import Election, measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from merge.parameters.sparse import DareTiesParams
    from merge.protocols import Recipe
    from merge.trimming import VectorOf
    from merge.weight import Weight


def statistics(weights: Sequence[Weight], *, recipe: Recipe[DareTiesParams, None]) -> Election:
    """Returns the election over the whole model's thinned task vectors."""
    return measure(
        weights,
        density=recipe.params.trim_density,
        vector_of=_thinned(recipe),
        is_late=recipe.settles_late,
    )


def combine(weight: Weight, *, recipe: Recipe[DareTiesParams, Election]) -> Tensor:
    """Returns the base plus the scaled consensus of the thinned and trimmed task vectors.

    Shapes: that of the weight.
    Source: Yu 2023, section 3.2, with Yadav 2023, algorithm 1, as FusionBench composes them: the
        trim counts its fraction over all entries, dropped ones included.
    Scope: model.
    """
    params = recipe.params
    return agree(
        weight, election=recipe.statistics, consensus=params.consensus, scaling=params.scaling
    )


def _thinned(recipe: Recipe[DareTiesParams, Any]) -> VectorOf:
    params = recipe.params
    return partial(thin, density=params.density, rescale=params.rescale, seed=recipe.seed)
