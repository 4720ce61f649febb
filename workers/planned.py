"""Finds one planned job by its id, in the plans that studies leave in the store."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from workers.artifacts.checksummed_json import DamagedJsonError, parse_checksummed
from workers.artifacts.layout import Layout
from workers.specs.bases import BaseSpec
from workers.specs.data import DataJob, DataSpec
from workers.specs.expert import ExpertSpec
from workers.specs.head import ZeroShotSpec
from workers.specs.merge import MergeSpec
from workers.specs.plan_file import PLAN_FILE, PlanFile, PlanFileError, PlannedTrial
from workers.specs.snapshots import Snapshots
from workers.specs.training import Pretraining, TrialSpec
from workers.store.protocol import Store

Planned = BaseSpec | Pretraining | DataJob | ZeroShotSpec | TrialSpec | MergeSpec


class NotPlannedError(LookupError):
    """No plan in the store has the id, or only the plan of another release of mergesweep has it."""


def find_planned(store: Store, artifact_id: str) -> Planned:
    """Returns the job that makes an artifact.

    Returns:
        For an expert, the trial that ends with the expert. For a pretrained base, the pretraining
        that ends with the base. Otherwise the job with the id.

    Raises:
        NotPlannedError: No plan has the id, or its fields give another id in this release.
    """
    num_plans = 0
    for plan in _plans(store):
        num_plans += 1
        try:
            found = _find(plan, artifact_id)
        except (KeyError, TypeError) as error:
            raise _of_another_release(artifact_id, plan=plan, why=f"{error!r}") from error
        if found is not None and found.id != artifact_id:
            why = f"its fields give the id {found.id} here"
            raise _of_another_release(artifact_id, plan=plan, why=why)
        if found is not None:
            return found
    raise NotPlannedError(f"{artifact_id} is in none of the {num_plans} plans of {store.url}")


def _of_another_release(artifact_id: str, *, plan: PlanFile, why: str) -> NotPlannedError:
    return NotPlannedError(
        f"{artifact_id} is in the plan of study {plan.study!r}, which another release of "
        f"mergesweep wrote: {why}; use that release, or run the study again with this one"
    )


def _plans(store: Store) -> Iterator[PlanFile]:
    """Yields all readable plans; a damaged one must not hide the others."""
    for entry in store.list(Layout.studies()):
        key = Layout.parse_study_key(entry.key)
        if key is not None and key.name.startswith(PLAN_FILE):
            with contextlib.suppress(PlanFileError, DamagedJsonError):
                yield PlanFile.from_json(parse_checksummed(store.get(entry.key)))


def _find(plan: PlanFile, artifact_id: str) -> Planned | None:
    if artifact_id in plan.bases:
        return _base(plan, artifact_id)
    for task, data in plan.data.items():
        if data.id == artifact_id:
            return DataJob(spec=DataSpec.from_json(data.spec), source=plan.source(task))
    if artifact_id in plan.heads:
        return ZeroShotSpec.from_json(plan.heads[artifact_id])
    for trial in plan.trials:
        if artifact_id in trial.snapshots.values():
            return _trial(trial, artifact_id)
    if artifact_id in plan.merges:
        return _merge(plan, artifact_id)
    return None


def _base(plan: PlanFile, artifact_id: str) -> BaseSpec | Pretraining:
    spec = BaseSpec.from_json(plan.bases[artifact_id])
    if spec.pretrain is None:
        return spec
    hyperparameters = spec.pretrain.hyperparameters
    snapshots = {hyperparameters.steps}
    if not hyperparameters.depends_on_total:
        others = [BaseSpec.from_json(each) for each in plan.bases.values()]
        snapshots |= {_steps_on_the_way(each, to=spec) for each in others} - {0}
    return Pretraining(longest=spec, snapshots=tuple(sorted(snapshots)))


def _steps_on_the_way(base: BaseSpec, *, to: BaseSpec) -> int:
    """Returns the steps of a base that the pretraining of another base passes; 0 if it does not."""
    if base.pretrain is None:
        return 0
    steps, to_steps = base.hyperparameters.steps, to.hyperparameters.steps
    return steps if steps <= to_steps and base.with_steps(to_steps) == to else 0


def _trial(trial: PlannedTrial, artifact_id: str) -> TrialSpec:
    longest = ExpertSpec.from_json(trial.longest)
    (last,) = (steps for steps, each in trial.snapshots.items() if each == artifact_id)
    snapshots = sorted(steps for steps in trial.snapshots if steps <= last)
    return TrialSpec(longest=longest.with_steps(last), snapshots=tuple(snapshots))


def _merge(plan: PlanFile, artifact_id: str) -> MergeSpec:
    fields = plan.merges[artifact_id]
    experts = {
        expert_id: expert for trial in plan.trials for expert_id, expert in _experts(trial).items()
    }
    return MergeSpec.from_json(
        fields,
        experts=tuple(experts[each] for each in fields["experts"]),
        held_out=tuple(experts[each] for each in fields["held_out"]),
        pool=tuple(experts[each] for each in fields.get("pool", ())),
        snapshots=_snapshots(fields, experts=experts),
    )


def _snapshots(fields: Mapping[str, Any], *, experts: Mapping[str, ExpertSpec]) -> Snapshots | None:
    if "snapshots" not in fields:
        return None
    return Snapshots(
        rule=fields["snapshots"]["rule"],
        experts=tuple(
            tuple(experts[each] for each in ids) for ids in fields["snapshots"]["experts"]
        ),
    )


def _experts(trial: PlannedTrial) -> dict[str, ExpertSpec]:
    longest = ExpertSpec.from_json(trial.longest)
    return {each: longest.with_steps(steps) for steps, each in trial.snapshots.items()}
