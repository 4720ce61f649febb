"""Checks that the study has the experts that its pools merge."""

from collections.abc import Iterator
from dataclasses import replace

from eval.counts import counted
from orchestrator.study.checks.points import points
from orchestrator.study.finetune import Finetune
from orchestrator.study.problems import StudyProblem, wrong_value
from orchestrator.study.schema import IRRELEVANT, RELEVANT, Groups
from orchestrator.study.tasks import Tasks


def check_pools(
    groups: Groups, *, tasks: Tasks | None, finetune: Finetune | None
) -> Iterator[StudyProblem]:
    """Yields pools that are smaller than a group, or larger than the experts there are.

    Args:
        groups: The section with the pools.
        tasks: The study's section; None if that is invalid.
        finetune: The study's section; None if that is invalid.
    """
    if "extra" in groups.model_fields_set and not groups.pool:
        remedy = "only a pool has further experts; give groups.pool, or leave this field out"
        yield wrong_value("groups.extra", groups.extra, remedy=remedy)
    limits = list(_limits(groups, tasks=tasks, finetune=finetune))
    if RELEVANT in groups.pool_kinds and (groups.size, RELEVANT) in [each[:2] for each in limits]:
        yield _no_other_experts(groups)
        limits = [each for each in limits if each[1] != RELEVANT]
    for index, pool in enumerate(groups.pool):
        field = f"groups.pool[{index}]"
        if pool < groups.size:
            remedy = (
                "a pool has the experts of its group, so at least groups.size, which is "
                f"{groups.size}"
            )
            yield wrong_value(field, pool, remedy=remedy)
        for most, kind, why in limits:
            if pool > most:
                remedy = f"{why}, so a pool of {kind} experts has at most {most}"
                yield wrong_value(field, pool, remedy=remedy)


def _limits(
    groups: Groups, *, tasks: Tasks | None, finetune: Finetune | None
) -> Iterator[tuple[int, str, str]]:
    """Yields the most experts of each kind of pool, the kind, and the reason."""
    if IRRELEVANT in groups.pool_kinds and tasks is not None:
        num_tasks = len(tasks.all_names)
        yield num_tasks, IRRELEVANT, f"the study has {counted(num_tasks, 'task')}"
    if RELEVANT in groups.pool_kinds and finetune is not None:
        num_others = _num_others(finetune)
        others = counted(num_others, "further expert")
        why = f"the settings of the study have {others} of each task"
        yield groups.size * (1 + num_others), RELEVANT, why


def _num_others(finetune: Finetune) -> int:
    """Returns the most experts of a task, with the same base, beside the one that is scored."""
    default = finetune.default_point.canonical()
    found = {
        replace(finetune.default_point, **point).canonical()
        for point in points(finetune, *finetune.varied())
    }
    others = {each for each in found - {default} if each.linearised == default.linearised}
    return min(len(others), finetune.draws - 1) if finetune.design == "random" else len(others)


def _no_other_experts(groups: Groups) -> StudyProblem:
    return wrong_value(
        "groups.extra",
        groups.extra,
        remedy="relevant experts are those of the same tasks at other settings, and the study has "
        "one setting of a base; vary something, as `finetune: {axes: {seed: [0, 1, 2]}}`, or use "
        "irrelevant, as for experts that are given as files",
    )
