"""Breadcrumbs: drop the largest and smallest entries of each tensor, add the rest."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch.nn.functional import hardshrink

from merge.kth_magnitude import just_below
from merge.radix import largest_magnitudes
from merge.weight import Weight, by_block, total

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from merge.parameters.sparse import BreadcrumbsParams
    from merge.protocols import Recipe

Band = tuple[float, float]
"""The least and the greatest magnitude that are kept."""


def measure_expert(
    weights: Sequence[Weight], index: int, *, recipe: Recipe[BreadcrumbsParams, None]
) -> Mapping[str, Band]:
    """Returns the band of magnitudes that an expert keeps in each tensor, by name."""
    return {weight.name: band(weight, index, params=recipe.params) for weight in weights}


def combine(weight: Weight, *, recipe: Recipe[BreadcrumbsParams, None]) -> Tensor:
    """Returns the base plus the scaled sum of the task vectors within their bands.

    Shapes: that of the weight.
    Source: Davari 2023, section 3, with one tensor as a layer, as in mergekit; the authors' code
        ranks within the last dimension. All entries that equal an end of the band are kept.
    Scope: tensor.
    """
    bands = [measured[weight.name] for measured in recipe.expert_results]
    return by_block(weight, partial(_add, bands=bands, scaling=recipe.params.scaling))


def band(weight: Weight, index: int, *, params: BreadcrumbsParams) -> Band:
    """Returns the least and the greatest magnitude that one expert keeps in one tensor.

    The gamma x entries (rounded) with the largest magnitudes are dropped, and the next density x
    entries (rounded, at least one) are kept. If the two numbers exceed the entries, fewer are
    dropped.
    """
    num_kept = max(1, round(params.density * weight.num_entries))
    num_dropped = min(round(params.gamma * weight.num_entries), weight.num_entries - num_kept)
    greatest, least = largest_magnitudes(
        lambda: (block.task_vector(index) for block in weight.blocks),
        ranks=(num_dropped + 1, num_dropped + num_kept),
    )
    return least, greatest


def within(vector: Tensor, band: Band) -> Tensor:
    """Returns a new vector in which magnitudes outside the band are zero."""
    least, greatest = band
    is_no_outlier = vector.abs().le_(greatest)
    return hardshrink(vector, just_below(least)).mul_(is_no_outlier)


def _add(block: Weight, *, bands: Sequence[Band], scaling: float) -> Tensor:
    kept = (within(vector, band) for vector, band in zip(block.task_vectors(), bands, strict=True))
    return block.base() + scaling * total(kept)
