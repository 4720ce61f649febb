"""PCB-Merging: weigh entries by their size and by their agreement, keep the best, average."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from merge.radix import largest, largest_magnitudes
from merge.weight import Weight, by_block, total

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from merge.parameters.sparse import PcbParams
    from merge.protocols import Recipe

OUTLIERS_FRAC = 1e-4
"""Share of the magnitudes at either end that is drawn in to the next; the authors' code."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Bounds of one expert's magnitudes over the model, outliers apart."""

    least: float
    greatest: float

    def clamp(self, vector: Tensor) -> Tensor:
        """Returns a task vector, changed in place, with its magnitudes drawn into the range."""
        signs = vector.sign()
        return vector.abs_().clamp_(self.least, self.greatest).mul_(signs)

    def position(self, vector: Tensor) -> Tensor:
        """Returns where each magnitude lies in the range, from 0 to 1; 0 if the range is a point.

        Shapes: that of the vector.
        """
        width = self.greatest - self.least
        magnitudes = vector.abs().clamp_(self.least, self.greatest)
        return magnitudes.sub_(self.least).div_(width or 1.0)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What turns one expert's scores into weights."""

    threshold: float
    """The least score that is kept."""
    greatest: float

    def weigh(self, scores: Tensor) -> Tensor:
        """Returns the scores, changed in place, from 0 at the threshold to 1 at the greatest.

        Where all that is kept ties, its weight is 1.
        """
        width = self.greatest - self.threshold
        if width == 0:
            return scores.ge_(self.threshold)
        return scores.sub_(self.threshold).clamp_(min=0).div_(width)


def measure_expert(
    weights: Sequence[Weight], index: int, *, recipe: Recipe[PcbParams, None]
) -> Range:
    """Returns the range of an expert's magnitudes."""
    del recipe
    num_entries = sum(weight.num_entries for weight in weights)
    num_outliers = int(OUTLIERS_FRAC * num_entries)
    blocks = [block for weight in weights for block in weight.blocks]
    greatest, least = largest_magnitudes(
        lambda: (block.task_vector(index) for block in blocks),
        ranks=(num_outliers + 1, num_entries - num_outliers),
    )
    return Range(least=least, greatest=greatest)


def statistics(weights: Sequence[Weight], *, recipe: Recipe[PcbParams, None]) -> Sequence[Scale]:
    """Returns every expert's scale, from the scores over the whole model.

    Scores are computed in each of the two passes and again for merging, and never kept.
    """
    if not weights:
        return []
    num_entries = sum(weight.num_entries for weight in weights)
    num_kept = max(1, round(recipe.params.density * num_entries))
    blocks = [block for weight in weights for block in weight.blocks]
    found = largest(
        lambda: (each for block in blocks for each in enumerate(scores(block, recipe.measured))),
        ranks=[(num_kept, 1)] * len(recipe.measured),
    )
    return [Scale(threshold=threshold, greatest=greatest) for threshold, greatest in found]


def combine(weight: Weight, *, recipe: Recipe[PcbParams, Sequence[Scale]]) -> Tensor:
    """Returns the base plus the scaled mean of the task vectors, weighted by their scores.

    Where no expert has a weight the base stays.

    Shapes: that of the weight.
    Source: Du 2024 as the authors' code has it, which differs from the paper's equations: exp
        and tanh stand for softmax, and an expert's least kept score has weight 0. The number kept
        is density x entries rounded, at least one.
    Scope: model.
    """
    return by_block(weight, partial(_add, recipe=recipe))


def scores(block: Weight, ranges: Sequence[Range]) -> Iterator[Tensor]:
    """Yields every expert's scores: exp(N position^2), of its magnitude, times its agreement.

    The agreement is tanh(task vector x sum of the task vectors), of vectors that are not clamped.
    All scores carry the factor exp(-N / 2), which cancels in the weights: without it groups of 90
    experts overflow float32. With it, the least weights of such groups lose digits.

    Shapes: that of the block.
    """
    merged = total(block.task_vectors())
    for index, range_ in enumerate(ranges):
        yield _score(block.task_vector(index), merged=merged, range_=range_, num=len(ranges))


def _score(vector: Tensor, *, merged: Tensor, range_: Range, num: int) -> Tensor:
    intra = range_.position(vector).square_().sub_(0.5).mul_(num).exp_()
    return vector.mul_(merged).tanh_().mul_(intra)


def _add(block: Weight, *, recipe: Recipe[PcbParams, Sequence[Scale]]) -> Tensor:
    merged = torch.zeros(block.shape, device=block.device)
    shares = torch.zeros_like(merged)
    each = zip(scores(block, recipe.measured), recipe.statistics, recipe.measured, strict=True)
    for index, (score, scale, range_) in enumerate(each):
        share = scale.weigh(score)
        shares += share
        merged += range_.clamp(block.task_vector(index)).mul_(share)
    shares += shares == 0
    return block.base() + merged.div_(shares).mul_(recipe.params.scaling)
