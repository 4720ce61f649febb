"""Chooses parameters of a merge from scores on validation images, its own or other merges'.

Imports no torch: the driver makes the choices that several merges share.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from workers.artifacts.metrics import TriedPoint, TuningMetrics
from workers.specs.merge import MergeSpec
from workers.specs.tuning import TunedBy, point_text


class NothingToChooseError(ValueError):
    """None of the values that were tried gives a merge with a finite loss."""


class NotChosenError(ValueError):
    """A merge whose parameters other merges choose was started without their choice."""


@dataclass(frozen=True, kw_only=True)
class ChosenMergeJob:
    """A merge, and the choice of its parameters that other merges' scores made."""

    spec: MergeSpec
    choice: TuningMetrics


def best_point(tried: Sequence[TriedPoint], *, by: TunedBy) -> TriedPoint:
    """Returns the combination with the least loss, or the greatest accuracy; the first of equals.

    Raises:
        NothingToChooseError: No combination has a finite loss.
    """
    finite = [each for each in tried if math.isfinite(each.loss)]
    if not finite:
        texts = "; ".join(point_text(each.values) for each in tried)
        raise NothingToChooseError(f"no value has a finite validation loss: {texts}")
    return min(finite, key=lambda each: each.loss if by == "loss" else -each.accuracy)


def shared_choice(tunings: Sequence[TuningMetrics], *, by: TunedBy) -> TuningMetrics:
    """Returns the choice by the mean scores of several merges that tried the same combinations.

    A combination that is not finite in one merge cannot be chosen.

    Raises:
        NothingToChooseError: No combination has a finite loss in every merge, or there is none.
    """
    tried = tuple(
        TriedPoint(
            values=points[0].values,
            loss=fmean(each.loss for each in points),
            accuracy=fmean(each.accuracy for each in points),
        )
        for points in zip(*(each.tried for each in tunings), strict=True)
    )
    return TuningMetrics(
        chosen=best_point(tried, by=by).values,
        tried=tried,
        num_images=sum(each.num_images for each in tunings),
    )
