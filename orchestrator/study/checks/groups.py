"""Checks that the study's tasks and methods allow its sizes of groups."""

from collections.abc import Iterator, Mapping

from eval.counts import counted
from merge.catalogue import num_experts_of
from merge.errors import ParameterErrors
from orchestrator.study.problems import StudyProblem, wrong_value
from orchestrator.study.schema import Groups, Merge
from orchestrator.study.tasks import Tasks


def check_group_sizes(
    groups: Groups, *, tasks: Tasks | None, merges: Mapping[int, Merge]
) -> Iterator[StudyProblem]:
    """Yields sizes that the number of tasks or a method does not allow.

    Args:
        groups: The section with the sizes.
        tasks: The study's section; None if that is invalid.
        merges: The study's valid merges, by position in the file.
    """
    for field, size in _sizes(groups):
        if tasks is not None:
            yield from _check_tasks(field, size=size, tasks=tasks)
        for index, merge in merges.items():
            yield from _check_method(field, size=size, index=index, merge=merge)
    for index, pool in enumerate(groups.pool):
        for place, merge in merges.items():
            yield from _check_method(f"groups.pool[{index}]", size=pool, index=place, merge=merge)


def _sizes(groups: Groups) -> Iterator[tuple[str, int]]:
    yield "groups.size", groups.size
    for index, size in enumerate(groups.sizes):
        yield f"groups.sizes[{index}]", size


def _check_tasks(field: str, *, size: int, tasks: Tasks) -> Iterator[StudyProblem]:
    num_tasks = len(tasks.all_names)
    if size > num_tasks:
        remedy = f"the study has {counted(num_tasks, 'task')}, so a group has at most {num_tasks}"
        yield wrong_value(field, size, remedy=remedy)


def _check_method(field: str, *, size: int, index: int, merge: Merge) -> Iterator[StudyProblem]:
    try:
        needed = num_experts_of(merge.parsed_params())
    except ParameterErrors:
        return  # the check of the merges reports it
    if needed not in (None, size):
        remedy = f"merge[{index}] ({merge.name}) merges exactly {needed} experts; expected {needed}"
        yield wrong_value(field, size, remedy=remedy)
