"""Turns a plan into the content of `plan.json`."""

from orchestrator.plan.plan import Plan, group_sampling
from workers.specs.plan_file import PlanFile, PlannedCell


def plan_file(plan: Plan) -> PlanFile:
    """Returns the content of `plan.json`: what runs, from which inputs, under which ids."""
    return PlanFile.of(
        study=plan.study.name,
        sampling=group_sampling(plan.study),
        groups={group.name: group.tasks for group in plan.groups},
        bases=plan.bases.by_id.values(),
        heads=[job.spec for job in plan.heads.values()],
        data=plan.datasets,
        sources=plan.sources,
        trials=plan.trials,
        merges=plan.merges.values(),
        cells=[
            PlannedCell(
                axis=cell.setting.axis,
                value=cell.setting.value,
                method=cell.label,
                group=cell.group.name,
                merge=cell.merge.id,
            )
            for cell in plan.cells
        ],
    )
