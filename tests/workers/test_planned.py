from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.plan.export import plan_file
from orchestrator.plan.plan import Plan, build_plan
from orchestrator.study.reader import parse_study
from workers.artifacts.checksummed_json import dump_checksummed
from workers.planned import NotPlannedError, find_planned
from workers.specs.training import TrialSpec
from workers.store.protocol import Store

if TYPE_CHECKING:
    from workers.specs.merge import MergeSpec

STUDY = """
name: planned
backbone:
  model: test_efficientnet
  weights: none
  image_size: 32
  pretrain: {tasks: [mnist_5k, mnist_m], steps: 4, batch_size: 8}
  axes: {pretrain_steps: [0, 2]}
tasks:
  names: [mnist_5k, mnist_m, bluemarble_regions]
  max_train: 40
  max_test: 48
  max_validation: 8
finetune:
  defaults: {steps: 3, batch_size: 8, lr: 0.05}
  axes: {lr: [0.05, 0.1], steps: [2, 3]}
groups: {count: 2, size: 2}
merge:
  - {method: average}
  - {method: ties, density: 0.5, scaling: 1}
  - {method: average, surgery: {rank: 8}}
  - {method: average, steps: chosen}
evaluation: {held_out: true}
"""
NAME = "studies/planned/plan.json"


@pytest.fixture
def plan() -> Plan:
    """Returns a plan with shared prefixes, held-out tasks, parameters and a surgery."""
    return build_plan(parse_study(STUDY, source="test"))


@pytest.fixture
def planned_store(store: Store, plan: Plan) -> Store:
    """Returns a store that has the plan."""
    store.put("studies/planned/study.yaml", STUDY.encode())
    store.put(NAME, written(plan))
    return store


def written(plan: Plan, **changes: Any) -> bytes:  # noqa: ANN401 any part of a plan
    return dump_checksummed({**plan_file(plan).to_json(), **changes})


def test_every_planned_id_is_found_as_it_was_planned(planned_store: Store, plan: Plan) -> None:
    """Bases, images, trials and merges are read back with their ids."""
    wanted: dict[str, Any] = {job.spec.id: job.spec for job in plan.bases.jobs} | plan.merges
    wanted |= {run.id: run for run in plan.bases.trainings}
    wanted |= {job.id: job for job in plan.data_jobs}
    wanted |= {trial.id: trial for trial in plan.trials}
    assert len(wanted) == 1 + 1 + 3 + len(plan.trials) + len(plan.merges)
    for artifact_id, spec in wanted.items():
        found = find_planned(planned_store, artifact_id)
        assert found == spec
        assert found.id == artifact_id


def test_snapshot_is_found_as_the_trial_that_ends_with_it(planned_store: Store, plan: Plan) -> None:
    """The trial of an expert of two steps ends after two steps."""
    trial = next(trial for trial in plan.trials if trial.snapshots == (2, 3))
    first = trial.outputs[0]
    assert find_planned(planned_store, first.id) == TrialSpec(longest=first, snapshots=(2,))


def test_plan_that_was_replaced_is_searched_as_well(planned_store: Store, plan: Plan) -> None:
    """A failed job may come from a plan that was written before the study was edited."""
    planned_store.put(f"{NAME}.0001", written(plan))
    planned_store.put(NAME, written(plan, merges={}))
    merge = next(iter(plan.merges.values()))
    assert find_planned(planned_store, merge.id) == merge


def test_damaged_plan_of_another_study_hides_nothing(planned_store: Store, plan: Plan) -> None:
    """A damaged plan is skipped; `mergesweep verify` reports it."""
    planned_store.put("studies/another/plan.json", written(plan)[:100])
    assert find_planned(planned_store, plan.bases.jobs[0].spec.id) == plan.bases.jobs[0].spec


def test_unknown_id_is_refused(planned_store: Store) -> None:
    """The message has the number of plans and the store."""
    with pytest.raises(NotPlannedError, match="0123456789abcdef is in none of the 1 plans of"):
        find_planned(planned_store, "0123456789abcdef")


def test_plan_of_another_release_is_refused(planned_store: Store, plan: Plan) -> None:
    """Running fields that give another id would commit another artifact."""
    merge = next(iter(plan.merges.values()))
    changed = plan_file(plan).to_json()["merges"][merge.id] | {"batch_norm": "pooled"}
    planned_store.put(NAME, written(plan, merges={merge.id: changed}))
    made: MergeSpec = replace(merge, batch_norm="pooled")
    with pytest.raises(NotPlannedError, match=f"another release .* give the id {made.id} here"):
        find_planned(planned_store, merge.id)


def test_fields_that_this_release_does_not_have_are_told_to_be_of_another(
    planned_store: Store, plan: Plan
) -> None:
    """Running without the unknown field would commit another artifact."""
    merge = next(iter(plan.merges.values()))
    changed = plan_file(plan).to_json()["merges"][merge.id] | {"dropout": 0.5}
    planned_store.put(NAME, written(plan, merges={merge.id: changed}))
    with pytest.raises(NotPlannedError, match=r"another release .*dropout"):
        find_planned(planned_store, merge.id)
