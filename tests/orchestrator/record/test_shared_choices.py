"""Merges whose parameters other merges choose, in the records of a study."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from orchestrator.cluster.jobs import JobKind
from orchestrator.plan.plan import Plan
from orchestrator.record.holes import Outcome
from orchestrator.record.ledger import Ledger
from orchestrator.run.merge_jobs import MergeJobs
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import TriedPoint, TuningMetrics
from workers.specs.merge import MergeSpec

Make = Callable[..., Manifest]
TASKS = {"names": ["emoji_objects", "font_letters", "mnist_5k"], "max_validation": 20}
TIES = {"method": "ties", "scaling": {"tune": [0.5, 1.0]}, "tuned_over": "setting"}


@pytest.fixture
def plan(make_plan: Callable[..., Plan]) -> Plan:
    """Returns three pairs, whose TIES have one scaling."""
    return make_plan(tasks=TASKS, merge=[TIES])


def parted(plan: Plan) -> tuple[list[MergeSpec], list[MergeSpec]]:
    """Returns the merges that choose, and those that share the choice."""
    specs = list(plan.merges.values())
    return (
        [each for each in specs if not each.shares_choice],
        [each for each in specs if each.shares_choice],
    )


def tuned(made: Manifest, losses: Sequence[float]) -> Manifest:
    tried = tuple(
        TriedPoint(values={"scaling": scaling}, loss=loss, accuracy=0.25)
        for scaling, loss in zip((0.5, 1.0), losses, strict=True)
    )
    tuning = TuningMetrics(chosen=tried[0].values, tried=tried, num_images=40)
    return replace(made, metrics={**made.metrics, "tuning": tuning.to_json()})


def test_shared_choice_waits_for_all_groups(
    plan: Plan, expert_manifest: Make, merge_manifest: Make
) -> None:
    """Its merges are ready together, after the last group's scores, and get the mean's choice."""
    choosing, sharing = parted(plan)
    ledger = Ledger(plan, manifests=[expert_manifest(each) for each in plan.experts.values()])
    losses = iter([(1.0, 2.0), (3.0, 1.0), (1.5, 1.6)])
    for spec in choosing:
        assert not any(each in sharing for each in ledger.state().ready_merges)
        ledger.add(tuned(merge_manifest(spec), next(losses)))
    assert list(ledger.state().ready_merges) == sharing
    jobs = MergeJobs(ledger)
    made = [jobs.job(each) for each in sharing]
    assert {each.kind for each in made} == {JobKind.CHOSEN_MERGE}
    assert [each.argument.spec for each in made] == sharing
    assert {str(each.argument.choice.chosen) for each in made} == {"{'scaling': 1.0}"}


def test_groups_of_a_diverged_expert_are_not_waited_for(
    plan: Plan, expert_manifest: Make, merge_manifest: Make
) -> None:
    """The other group chooses alone; groups with the expert are holes as ever."""
    first, *others = plan.experts.values()
    made = [expert_manifest(first, test=None), *map(expert_manifest, others)]
    ledger = Ledger(plan, manifests=made)
    choosing, sharing = parted(plan)
    (able,) = (each for each in choosing if first not in each.experts)
    assert list(ledger.state().ready_merges) == [able]
    ledger.add(tuned(merge_manifest(able), (2.0, 1.0)))
    (ready,) = ledger.state().ready_merges
    assert ready in sharing
    assert ready.experts == able.experts
    assert not ledger.state().is_finished
    ledger.add(tuned(merge_manifest(ready), (2.0, 1.0)))
    assert ledger.state().is_finished


def test_failed_choosing_merge_is_the_reason_of_a_hole(
    plan: Plan, expert_manifest: Make, merge_manifest: Make
) -> None:
    """All merges of the choice name it, until another run makes it."""
    choosing, sharing = parted(plan)
    ledger = Ledger(plan, manifests=[expert_manifest(each) for each in plan.experts.values()])
    for spec in choosing[1:]:
        ledger.add(tuned(merge_manifest(spec), (2.0, 1.0)))
    ledger.fail(choosing[0].id, reason="no value has a finite loss")
    assert ledger.state().ready_merges == ()
    holes = {each.id: each for each in ledger.state().holes()}
    for spec in sharing:
        assert holes[spec.id].outcome is Outcome.NOT_RUN
        assert str(holes[spec.id].blocked_by) == f"failed merge {choosing[0].id}"
