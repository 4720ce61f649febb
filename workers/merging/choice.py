"""Chooses parameters of a merge from scores on validation images, its own or other merges'.

Imports no torch: the driver makes the choices that several merges share.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

from workers.artifacts.metrics import TriedPoint, TuningMetrics
from workers.specs.merge import MergeSpec
from workers.specs.tuning import TunedBy, point_text

MAX_SWEEPS = 5
"""Most sweeps over the tasks of a group; on convex models two or three suffice."""


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


def descend(
    *,
    names: Sequence[str],
    counts: Sequence[int],
    score: Callable[[Mapping[str, float]], Sequence[TriedPoint]],
    max_sweeps: int = MAX_SWEEPS,
) -> TuningMetrics:
    """Chooses steps for each task by coordinate descent on the validation loss of the merge.

    It begins at the number of steps that merges best if all tasks have the same. Then it tries all
    numbers for one task after another, in the order of `names`, and keeps the best, until a sweep
    over all tasks changes nothing, or after `max_sweeps`. Every combination is scored once. Of
    equal losses the one with fewer steps wins: each change lowers the loss, or keeps it with fewer
    steps. A loss that is not finite is the worst.

    Parameters of the method that are tuned too are chosen jointly: the loss of a combination is the
    least over all their values, so that each change of steps may change them.

    Args:
        names: The name of each task's steps in a combination.
        counts: The numbers of steps to choose from, ascending.
        score: Returns a combination with its scores, once for each value of the tuned parameters;
            the first of equals wins.
        max_sweeps: Most sweeps over all tasks.

    Returns:
        The choice, with `num_images` 0, and all combinations in the order in which they were tried.

    Raises:
        NothingToChooseError: No common number of steps has a finite loss.
    """
    tried: dict[tuple[int, ...], Sequence[TriedPoint]] = {}

    def loss(steps: tuple[int, ...]) -> float:
        if steps not in tried:
            tried[steps] = score(dict(zip(names, steps, strict=True)))
        finite = (each.loss for each in tried[steps] if math.isfinite(each.loss))
        return min(finite, default=math.inf)

    common = [(count,) * len(names) for count in counts]
    steps = min(common, key=loss)  # the first of equals, which has the fewest steps
    best_point(list(chain(*tried.values())), by="loss")  # raises if none is finite
    for _ in range(max_sweeps):
        before = steps
        for place in range(len(names)):
            others = [(*steps[:place], count, *steps[place + 1 :]) for count in counts]
            steps = min(others, key=loss)
        if steps == before:
            break
    best = best_point(tried[steps], by="loss")
    return TuningMetrics(chosen=best.values, tried=tuple(chain(*tried.values())), num_images=0)
