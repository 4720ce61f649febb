"""Derives the measurements that the theory of a study needs from its plan."""

from collections.abc import Iterable
from dataclasses import replace

from merge.catalogue import CHANGE_TASK_VECTORS
from orchestrator.plan.plan import Plan
from workers.specs.expert import ExpertSpec
from workers.specs.measures import (
    ConstantsSpec,
    CurvatureSpec,
    OperatorSpec,
    ReachSpec,
    TaskSample,
)
from workers.specs.merge import MergeSpec

REACH_BATCHES = 6
"""Batches of 32 images for a reach: three forward passes of them take as long as six steps."""


def constants_of(
    plan: Plan, *, curvature: CurvatureSpec | None = None
) -> tuple[ConstantsSpec, ...]:
    """Returns the constants of each base on each task that its experts are trained on.

    Experts that are linearised or adapters have none: their steps do not follow the gradient of
    the weights.

    Args:
        plan: The study's plan.
        curvature: How to measure the curvature too; None to leave it out.
    """
    moved = (each for each in plan.experts.values() if each.hyperparameters.moves_all_weights)
    samples = (sample_of(plan, expert) for expert in moved)
    return tuple(
        ConstantsSpec(sample=sample, curvature=curvature) for sample in dict.fromkeys(samples)
    )


def reaches_of(plan: Plan) -> tuple[ReachSpec, ...]:
    """Returns the reach of the path to each expert, on its own task: along all snapshots."""
    return tuple(
        ReachSpec(
            sample=path_sample_of(expert),
            experts=(expert.id,),
            coefficients=(1.0,),
        )
        for expert in _nonlinear(plan)
    )


def operators_of(plan: Plan, *, leave_one_out: bool) -> tuple[OperatorSpec, ...]:
    """Returns the effect of each method on each group's task vectors at each setting.

    Methods that only add task vectors have no effect of their own: one of them stands for all on
    the same experts. Merges that differ only in the treatment of running statistics or in surgery
    are measured once. Merges that choose parameters or steps are left out, as no plan knows the
    values, and methods of users, as nothing is known about their effect. So are merges of more
    experts than tasks.
    """
    specs: dict[object, OperatorSpec] = {}
    for merge in plan.merges.values():
        if merge.chooses or merge.own_method is not None or merge.pool:
            continue
        has_effect = merge.method in CHANGE_TASK_VECTORS
        effect = (merge.method, repr(sorted(merge.params.items())), merge.seed)
        key = (merge.experts, effect if has_effect else None)
        specs.setdefault(key, OperatorSpec(merge=merge, leave_one_out=leave_one_out))
    return tuple(specs.values())


def seed_operators_of(plan: Plan) -> tuple[OperatorSpec, ...]:
    """Returns the plain average of all experts of a task that differ in their seed alone.

    Its inner products say how much of a task vector repeats with other batches, order and head.
    """
    alike: dict[object, list[ExpertSpec]] = {}
    for expert in plan.experts.values():
        unseeded = replace(expert.hyperparameters, seed=0)
        key = (expert.task, expert.base_id, expert.data_id, expert.head_id, unseeded)
        alike.setdefault(key, []).append(expert)
    return tuple(
        OperatorSpec(
            merge=MergeSpec(
                method="average",
                params={},
                batch_norm="average",
                recalibration_images=0,
                seed=0,
                base_id=experts[0].base_id,
                experts=tuple(experts),
                held_out=(),
            )
        )
        for experts in alike.values()
        if len(experts) > 1
    )


def sample_of(plan: Plan, expert: ExpertSpec) -> TaskSample:
    """Returns a task's loss under a head that is known before any training."""
    return TaskSample(
        task=expert.task,
        base_id=expert.base_id,
        data_id=expert.data_id,
        head_id=expert.head_id,
        probe_l2=0.0 if expert.head_id else plan.study.finetune.head.l2,
        augment=expert.hyperparameters.augment,
    )


def path_sample_of(expert: ExpertSpec) -> TaskSample:
    """Returns a task's loss under the head that the expert and its merges are evaluated with.

    Under the probe, a path of an expert that was trained with another head leads uphill.
    """
    return TaskSample(
        task=expert.task,
        base_id=expert.base_id,
        data_id=expert.data_id,
        head_expert_id=expert.id,
        probe_l2=0.0,
        augment=expert.hyperparameters.augment,
        num_batches=REACH_BATCHES,
    )


def _nonlinear(plan: Plan) -> Iterable[ExpertSpec]:
    """Returns the experts that are not linearised: a linear path has no curvature to reach."""
    return (each for each in plan.experts.values() if not each.hyperparameters.linearised)
