from collections.abc import Callable, Collection

import pytest

from orchestrator.cluster.protocol import METRICS, STATES
from orchestrator.costs.budget import BudgetKeeper
from orchestrator.plan.plan import Plan
from orchestrator.record.ledger import Ledger
from orchestrator.run.metrics import metric_values
from workers.artifacts.manifests import Manifest

Make = Callable[..., Manifest]
Shown = dict[tuple[str, ...], float]


def shown(ledger: Ledger, *, running: Collection[str] = (), num_jobs_waiting: int = 0) -> Shown:
    """Returns every metric value by its name and the values of its labels."""
    budget_keeper = BudgetKeeper(ledger)
    found = metric_values(
        ledger.state(),
        budget_keeper=budget_keeper,
        running=frozenset(running),
        num_jobs_waiting=num_jobs_waiting,
    )
    return {(each.name, *each.labels.values()): each.value for each in found}


@pytest.fixture
def ledger(make_plan: Callable[..., Plan]) -> Ledger:
    """Returns the ledger of three trials and three merges, none of them done."""
    return Ledger(make_plan(), manifests=[])


def test_new_study_waits_for_everything(ledger: Ledger) -> None:
    """All metrics and states exist from the first moment, so that no rule lacks a series."""
    found = shown(ledger, num_jobs_waiting=4)
    assert {name for name, *_ in found} == METRICS.keys()
    for name, states in STATES.items():
        assert [state for each, *state in found if each == name] == [[state] for state in states]
    assert found["mergesweep_trials", "waiting"] == 3
    assert found["mergesweep_merges", "waiting"] == 3
    assert found["mergesweep_queue_depth", "trials"] == 3
    assert found["mergesweep_queue_depth", "jobs"] == 4
    assert sum(found.values()) == 3 + 3 + 3 + 4


def test_each_trial_and_merge_is_in_one_state(ledger: Ledger, expert_manifest: Make) -> None:
    """One trial done, one failed with the merges that need it, one held by a worker."""
    done, failed, running = ledger.plan.trials
    for expert in done.outputs:
        ledger.add(expert_manifest(expert, seconds=7.0))
    ledger.fail(failed.id, reason="it was too hot")
    found = shown(ledger, running=[running.id])
    trials = [found["mergesweep_trials", state] for state in STATES["mergesweep_trials"]]
    merges = [found["mergesweep_merges", state] for state in STATES["mergesweep_merges"]]
    assert trials == [1, 1, 0, 0, 1]
    assert merges == [0, 0, 1, 0, 2]
    assert found["mergesweep_queue_depth", "trials"] == 0
    assert found["mergesweep_cpu_seconds",] == 7.0
    assert found["mergesweep_store_bytes",] == 4000


def test_merge_is_ready_and_then_done(
    ledger: Ledger, expert_manifest: Make, merge_manifest: Make
) -> None:
    """Its seconds are added to those of the trials; it stores no bytes."""
    for expert in ledger.plan.experts.values():
        ledger.add(expert_manifest(expert, seconds=1.0))
    ledger.add(merge_manifest(next(iter(ledger.plan.merges.values())), merge_s=2.0))
    found = shown(ledger)
    assert [found["mergesweep_merges", each] for each in ("done", "ready", "waiting")] == [1, 2, 0]
    assert found["mergesweep_cpu_seconds",] == 3 * 1.0 + 2.0 + 1.5


def test_jobs_that_the_budget_leaves_out_do_not_wait(make_plan: Callable[..., Plan]) -> None:
    """An alert on waiting trials stays silent about trials that will not run."""
    small = {"names": ["emoji_objects", "font_letters", "mnist_5k"], "max_test": 50}
    plan = make_plan(budget={"cpu_hours": 0.5 / 3600}, tasks=small)
    found = shown(Ledger(plan, manifests=[]))
    assert found["mergesweep_trials", "left_out"] + found["mergesweep_trials", "waiting"] == 3
    assert found["mergesweep_trials", "left_out"] > 0
    assert found["mergesweep_queue_depth", "trials"] == found["mergesweep_trials", "waiting"]
