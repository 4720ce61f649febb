"""Checks that a study has no more settings or candidates than anyone means, before they are made.

A number with a few zeros too many would keep `plan` busy for hours and fill the memory.
"""

import math
from collections.abc import Iterator

from orchestrator.study.backbone import BackboneSection
from orchestrator.study.finetune import Finetune
from orchestrator.study.problems import StudyProblem, wrong_value
from orchestrator.study.search import Search, SearchRange

MAX_SETTINGS = 100_000
"""Most settings of a study, and most candidates of a grid or a batch. `plan` takes a minute and a
half for so many."""


def check_num_settings(finetune: Finetune, *, backbone: BackboneSection) -> Iterator[StudyProblem]:
    """Yields a design that has too many settings."""
    if finetune.design == "random" and finetune.draws > MAX_SETTINGS:
        remedy = f"expected {MAX_SETTINGS} or less"
        yield wrong_value("finetune.draws", finetune.draws, remedy=remedy)
    if finetune.design == "grid":
        axes = [*finetune.axes.varied().values(), *backbone.axes.varied().values()]
        num = math.prod(map(len, axes))
        if num > MAX_SETTINGS:
            yield wrong_value("finetune.design", "grid", remedy=_too_many(num, "settings"))


def check_num_candidates(search: Search, *, num_tasks: int) -> Iterator[StudyProblem]:
    """Yields a grid or a batch that has too many candidates."""
    num = math.prod(
        _num_values(each) ** (num_tasks if name in search.per_task else 1)
        for name, each in search.space.items()
    )
    if search.algorithm == "grid" and num > MAX_SETTINGS:
        remedy = f"{_too_many(num, 'candidates')}, or take random"
        yield wrong_value("search.algorithm", "grid", remedy=remedy)
    if search.batch is not None and search.batch > MAX_SETTINGS:
        yield wrong_value("search.batch", search.batch, remedy=f"expected {MAX_SETTINGS} or less")


def _num_values(values: SearchRange) -> int:
    """Returns the number of values of a grid; 1 for a range that no grid can have."""
    if values.choice is not None:
        return len(values.choice)
    return 1 + int(values.bounds[1]) - int(values.bounds[0]) if values.int is not None else 1


def _too_many(num: int, noun: str) -> str:
    about = f"{num:,}" if num < MAX_SETTINGS**2 else f"more than {MAX_SETTINGS**2:,}"
    return f"it has {about} {noun}, and {MAX_SETTINGS:,} are the most; list fewer values"
