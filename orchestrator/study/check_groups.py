"""Checks that groups can have the sizes that a study gives them."""

from collections.abc import Iterator, Mapping

from merge.catalogue import num_experts_of, parse_params
from merge.errors import ParameterErrors
from orchestrator.study.problems import StudyProblem
from orchestrator.study.schema import Groups, Merge
from orchestrator.study.tasks import Tasks


def check_group_sizes(
    groups: Groups, *, tasks: Tasks | None, merges: Mapping[int, Merge]
) -> Iterator[StudyProblem]:
    """Yields what is wrong with a size, given the tasks that there are and the methods.

    Args:
        groups: The section that holds the sizes.
        tasks: The study's; None while they are wrong themselves.
        merges: The study's well-formed methods, by place in the file.
    """
    for field, size in _sizes(groups):
        if tasks is not None:
            yield from _check_tasks(field, size=size, tasks=tasks)
        for index, merge in merges.items():
            yield from _check_method(field, size=size, index=index, merge=merge)


def _sizes(groups: Groups) -> Iterator[tuple[str, int]]:
    yield "groups.size", groups.size
    for index, size in enumerate(groups.sizes):
        yield f"groups.sizes[{index}]", size


def _check_tasks(field: str, *, size: int, tasks: Tasks) -> Iterator[StudyProblem]:
    num_tasks = len(tasks.all_names)
    if size > num_tasks:
        allowed = f"the study has {num_tasks} tasks, so at most {num_tasks}"
        yield StudyProblem(field=field, value=str(size), allowed=allowed)


def _check_method(field: str, *, size: int, index: int, merge: Merge) -> Iterator[StudyProblem]:
    try:
        needed = num_experts_of(parse_params(merge.method, merge.params))
    except ParameterErrors:
        return  # told where methods are checked
    if needed not in (None, size):
        allowed = f"merge[{index}] ({merge.method}) merges exactly {needed} experts, so {needed}"
        yield StudyProblem(field=field, value=str(size), allowed=allowed)
