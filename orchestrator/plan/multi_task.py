"""Plans multi-task models: one backbone on all tasks of a group together, with a head per task."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.plan.bases import Bases
from orchestrator.plan.groups import Group
from orchestrator.plan.settings import Setting, has_defaults, origin_of
from orchestrator.study.schema import Study
from workers.specs.bases import BaseSpec, PretrainSpec
from workers.specs.expert import ExpertSpec

MULTI_TASK = "multi-task"
"""The name of the models in tables and figures, in the place of a method."""


@dataclass(frozen=True, kw_only=True)
class MultiTaskCell:
    """The multi-task model of one group at one setting."""

    setting: Setting
    group: Group
    model: BaseSpec
    experts: tuple[ExpertSpec, ...]
    """The group's experts, beside which the tables show the model."""


def multi_task_cells(
    study: Study,
    *,
    settings: Sequence[Setting],
    groups: Sequence[Group],
    bases: Bases,
    experts: Sequence[Mapping[str, ExpertSpec]],
) -> Iterator[MultiTaskCell]:
    """Yields the multi-task model of every group at the settings that have any.

    It has the hyperparameters of the group's experts: optimizer, batch size, rate and seed.
    Settings of the random design whose experts differ have none.

    Args:
        study: A checked study.
        settings: The study's settings.
        groups: The study's groups.
        bases: The bases of the settings.
        experts: The expert of every task, for each of `settings`.
    """
    wanted = study.baselines.multi_task
    if wanted is None:
        return
    times = 1 if wanted.steps == "same" else wanted.steps
    origin = origin_of(study.finetune, backbone=study.backbone, tasks=study.task_names)
    for setting, by_task in zip(settings, experts, strict=True):
        size = study.groups.size
        if wanted.settings == "defaults" and not has_defaults(setting, origin=origin, size=size):
            continue
        size = setting.size or size
        for group in (group for group in groups if group.size == size):
            members = tuple(by_task[task] for task in group.tasks)
            if len({each.hyperparameters for each in members}) > 1:
                continue
            yield MultiTaskCell(
                setting=setting,
                group=group,
                model=_model(bases.by_point[setting.base], members=members, times=times),
                experts=members,
            )


def _model(base: BaseSpec, *, members: Sequence[ExpertSpec], times: int) -> BaseSpec:
    ordered = sorted(members, key=lambda each: each.task)
    used = ordered[0].hyperparameters
    pretrain = PretrainSpec(
        tasks=tuple(each.task for each in ordered),
        data_ids=tuple(each.data_id for each in ordered),
        hyperparameters=replace(used, steps=times * used.steps),
        constants=ordered[0].constants,
        heads="per_task",
    )
    return replace(base, pretrain=pretrain)
