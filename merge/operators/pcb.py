"""PCB-Merging: score entries by size and agreement, keep the best, average them."""

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
"""Share of the smallest and of the largest magnitudes that is clamped, as in the authors' code."""


@dataclass(frozen=True, kw_only=True)
class MagnitudeRange:
    """The range of one expert's magnitudes over the model, without outliers."""

    least: float
    greatest: float

    def clamp(self, vector: Tensor) -> Tensor:
        """Clamps the magnitudes of a task vector to the range, in place, and returns the vector."""
        signs = vector.sign()
        return vector.abs_().clamp_(self.least, self.greatest).mul_(signs)

    def position(self, vector: Tensor) -> Tensor:
        """Returns the position of each magnitude in the range, 0 to 1; 0 if the range is a point.

        Shapes: that of the vector.
        """
        width = self.greatest - self.least
        magnitudes = vector.abs().clamp_(self.least, self.greatest)
        return magnitudes.sub_(self.least).div_(width or 1.0)


@dataclass(frozen=True, kw_only=True)
class ScoreScale:
    """The mapping of one expert's scores to weights."""

    threshold: float
    """The least score that is kept."""
    greatest: float
    """The greatest score."""

    def weigh(self, scores: Tensor) -> Tensor:
        """Maps scores to weights in place: 0 at or below the threshold, 1 at the greatest score.

        If all kept scores are equal, their weight is 1.
        """
        width = self.greatest - self.threshold
        if width == 0:
            return scores.ge_(self.threshold)
        return scores.sub_(self.threshold).clamp_(min=0).div_(width)


def measure_expert(
    weights: Sequence[Weight], index: int, *, recipe: Recipe[PcbParams, None]
) -> MagnitudeRange:
    """Returns the range of an expert's magnitudes over the model."""
    del recipe
    num_entries = sum(weight.num_entries for weight in weights)
    num_outliers = int(OUTLIERS_FRAC * num_entries)
    blocks = [block for weight in weights for block in weight.blocks]
    greatest, least = largest_magnitudes(
        lambda: (block.task_vector(index) for block in blocks),
        ranks=(num_outliers + 1, num_entries - num_outliers),
    )
    return MagnitudeRange(least=least, greatest=greatest)


def measure_group(
    weights: Sequence[Weight], *, recipe: Recipe[PcbParams, None]
) -> Sequence[ScoreScale]:
    """Returns every expert's scale of scores, measured over the whole model.

    Scores are computed in each of the two passes and again by the merge; none are stored.
    """
    if not weights:
        return []
    num_entries = sum(weight.num_entries for weight in weights)
    num_kept = max(1, round(recipe.params.density * num_entries))
    blocks = [block for weight in weights for block in weight.blocks]
    found = largest(
        lambda: (
            each for block in blocks for each in enumerate(scores(block, recipe.expert_results))
        ),
        ranks=[(num_kept, 1)] * len(recipe.expert_results),
    )
    return [ScoreScale(threshold=threshold, greatest=greatest) for threshold, greatest in found]


def combine(weight: Weight, *, recipe: Recipe[PcbParams, Sequence[ScoreScale]]) -> Tensor:
    """Returns the base plus the scaled mean of the task vectors, weighted by their scores.

    Where no expert has a weight, the base stays.

    Shapes: that of the weight.
    Source: the authors' code of Du 2024. It differs from the paper's equations: it uses exp and
        tanh in place of softmax, and gives an expert's least kept score the weight 0. The number of
        kept entries is density x entries, rounded to the nearest integer and at least one.
    Scope: model.
    """
    return by_block(weight, partial(_add, recipe=recipe))


def scores(block: Weight, ranges: Sequence[MagnitudeRange]) -> Iterator[Tensor]:
    """Yields every expert's scores: exp(N position^2) times the agreement, for N experts.

    The position is that of the magnitude in the expert's range. The agreement is tanh(task vector x
    sum of the task vectors), with task vectors that are not clamped. All scores carry the factor
    exp(-N / 2), which cancels in the weights: without it, groups of 90 experts overflow float32.
    With it, the least weights of such groups lose digits.

    Shapes: that of the block.
    """
    merged = total(block.task_vectors())
    for index, range_ in enumerate(ranges):
        yield _score(block.task_vector(index), merged=merged, range_=range_, num=len(ranges))


def _score(vector: Tensor, *, merged: Tensor, range_: MagnitudeRange, num: int) -> Tensor:
    intra = range_.position(vector).square_().sub_(0.5).mul_(num).exp_()
    return vector.mul_(merged).tanh_().mul_(intra)


def _add(block: Weight, *, recipe: Recipe[PcbParams, Sequence[ScoreScale]]) -> Tensor:
    merged = torch.zeros(block.shape, device=block.device)
    shares = torch.zeros_like(merged)
    each = zip(
        scores(block, recipe.expert_results),
        recipe.group_result,
        recipe.expert_results,
        strict=True,
    )
    for index, (score, scale, range_) in enumerate(each):
        share = scale.weigh(score)
        shares += share
        merged += range_.clamp(block.task_vector(index)).mul_(share)
    shares += shares == 0
    return block.base() + merged.div_(shares).mul_(recipe.params.scaling)
