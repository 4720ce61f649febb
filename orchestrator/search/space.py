"""The searched space: its dimensions, and random points in it."""

import math
import random
from typing import Any

from orchestrator.plan.candidates import TASK_MARK
from orchestrator.study.finetune import point_of
from orchestrator.study.schema import Study
from orchestrator.study.search import Search, SearchRange
from workers.sampling.seeds import derive_seed

NUM_DIGITS = 4
"""Significant digits of a drawn number: more would only make tables unreadable."""


def search_of(study: Study) -> Search:
    """Returns the section `search` of a study that has one."""
    assert study.search is not None, f"study {study.name} has no search"
    return study.search


def dimensions(study: Study) -> dict[str, SearchRange]:
    """Returns the range of each dimension, by hyperparameter: `lr`, or `lr@mnist` per task."""
    search = search_of(study)
    return {
        name if task is None else f"{name}{TASK_MARK}{task}": each
        for name, each in search.space.items()
        for task in (sorted(study.task_names) if name in search.per_task else [None])
    }


def drawn(study: Study, *, number: int, again: int = 0) -> dict[str, Any]:
    """Returns a random candidate. It depends on the seed, its number and the space alone.

    Args:
        study: The study.
        number: The number of the candidate.
        again: Counts further points that may stand for the candidate; 0 for the first.
    """
    further = ("again", again) if again else ()
    return {
        name: typed(
            name,
            _draw(
                each,
                generator=random.Random(  # noqa: S311 not secret
                    derive_seed(study.seed, "search", number, name, *further)
                ),
            ),
        )
        for name, each in dimensions(study).items()
    }


def typed(name: str, value: Any) -> Any:  # noqa: ANN401 a value
    """Returns a value with the type of its hyperparameter: 0 is 0.0 for a weight decay."""
    hyperparameter = name.partition(TASK_MARK)[0]
    return point_of({hyperparameter: value})[hyperparameter]


def _draw(values: SearchRange, *, generator: random.Random) -> Any:  # noqa: ANN401 a value
    at = generator.random()
    if values.choice is not None:
        return values.choice[int(at * len(values.choice))]
    low, high = values.bounds
    if values.int is not None:
        return int(low) + int(at * (int(high) - int(low) + 1))
    if values.log is not None:
        return rounded(low * math.exp(at * math.log(high / low)), values)
    return rounded(low + at * (high - low), values)


def rounded(number: float, values: SearchRange) -> float:
    """Returns a number with few digits, within its bounds."""
    low, high = values.bounds
    return min(high, max(low, float(f"{number:.{NUM_DIGITS}g}")))
