"""Finds one planned piece of work by its id, in the plans that studies leave in the store."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from eval.task_source import source_from_json
from workers.artifacts.layout import Layout
from workers.artifacts.sealed import SealError, unseal
from workers.specs.data import DataJob, DataSpec, ZeroShotSpec
from workers.specs.merge import MergeSpec
from workers.specs.spec_json import (
    head_from_json,
    surgery_from_json,
)
from workers.specs.training import BaseSpec, ExpertSpec, PretrainRun, TrialSpec
from workers.store.protocol import Store

PLAN_FILE = "plan.json"
"""Also the beginning of the names of plans that a later run of the study has replaced."""

Planned = BaseSpec | PretrainRun | DataJob | ZeroShotSpec | TrialSpec | MergeSpec


class NotPlannedError(LookupError):
    """No study of the store has planned this id, or another release of mergesweep has."""


def find_planned(store: Store, artifact_id: str) -> Planned:
    """Returns the specification with an id; of an expert, the trial that ends with it.

    Of a pretrained base, the run that ends with it.

    Raises:
        NotPlannedError: No plan has the id, or the plan's fields no longer make it.
    """
    num_plans = 0
    for plan in _plans(store):
        num_plans += 1
        if (found := _find(plan, artifact_id)) is not None:
            if found.id != artifact_id:
                raise NotPlannedError(
                    f"the plan of study {plan['study']!r} has {artifact_id}, but its fields give "
                    f"{found.id} here: the plan is of another release of mergesweep"
                )
            return found
    raise NotPlannedError(f"{artifact_id} is in none of the {num_plans} plans of {store.url}")


def _plans(store: Store) -> Iterator[dict[str, Any]]:
    for entry in store.list(Layout.studies()):
        key = Layout.parse_study_key(entry.key)
        if key is not None and key.name.startswith(PLAN_FILE):
            with contextlib.suppress(SealError):  # one damaged plan must not hide the others
                yield unseal(store.get(entry.key))


def _find(plan: Mapping[str, Any], artifact_id: str) -> Planned | None:
    if artifact_id in (bases := planned_bases(plan)):
        return _base(bases, artifact_id)
    for task, each in plan["data"].items():
        if each["id"] == artifact_id:
            source = source_from_json(task, plan.get("sources", {}).get(task))
            return DataJob(spec=DataSpec(**_without_id(each)), source=source)
    if artifact_id in (heads := planned_heads(plan)):
        return head_from_json(heads[artifact_id])
    for trial in plan["trials"]:
        if artifact_id in trial["snapshots"].values():
            return _trial(trial, artifact_id)
    if artifact_id in plan["merges"]:
        return _merge(plan["merges"][artifact_id], plan=plan)
    return None


def planned_bases(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the bases of a plan as JSON, by id; releases that had one base wrote it as `base`."""
    if "bases" in plan:
        return dict(plan["bases"])
    return {plan["base"]["id"]: _without_id(plan["base"])}


def planned_heads(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the zero-shot heads of a plan as JSON, by id; earlier releases had none."""
    return dict(plan.get("heads", {}))


def _base(bases: Mapping[str, Any], artifact_id: str) -> BaseSpec | PretrainRun:
    spec = BaseSpec.from_json(bases[artifact_id])
    if spec.pretrain is None:
        return spec
    hyperparameters = spec.pretrain.hyperparameters
    is_alone = hyperparameters.depends_on_total
    others = [] if is_alone else [BaseSpec.from_json(values) for values in bases.values()]
    steps = {hyperparameters.steps, *(_steps_on_the_way(each, to=spec) for each in others)}
    return PretrainRun(longest=spec, snapshots=tuple(sorted(steps - {0})))


def _steps_on_the_way(base: BaseSpec, *, to: BaseSpec) -> int:
    """Returns the steps of a base that a run to another one passes; 0 for none."""
    assert to.pretrain is not None
    if base.pretrain is None:
        return 0
    steps, to_steps = base.pretrain.hyperparameters.steps, to.pretrain.hyperparameters.steps
    return steps if steps <= to_steps and base.with_steps(to_steps) == to else 0


def _without_id(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "id"}


def _trial(values: Mapping[str, Any], artifact_id: str) -> TrialSpec:
    experts = _experts_of(values)
    last = experts[artifact_id]
    steps = sorted(each.hyperparameters.steps for each in experts.values())
    kept = tuple(each for each in steps if each <= last.hyperparameters.steps)
    return TrialSpec(longest=last, snapshots=kept)


def _merge(values: Mapping[str, Any], *, plan: Mapping[str, Any]) -> MergeSpec:
    experts: dict[str, ExpertSpec] = {}
    for trial in plan["trials"]:
        experts |= _experts_of(trial)
    groups = {
        name: tuple(experts[each] for each in values[name]) for name in ("experts", "held_out")
    }
    surgery = surgery_from_json(values.get("surgery"))
    # A group of a release with one base has that of its plan.
    base_id = values.get("base_id") or next(iter(planned_bases(plan)))
    return MergeSpec(**{**values, **groups, "surgery": surgery, "base_id": base_id})


def _experts_of(trial: Mapping[str, Any]) -> dict[str, ExpertSpec]:
    longest = ExpertSpec.from_json(trial["longest"])
    return {
        artifact_id: longest.with_steps(int(steps))
        for steps, artifact_id in trial["snapshots"].items()
    }
