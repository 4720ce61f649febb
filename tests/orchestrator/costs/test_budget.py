from collections.abc import Callable
from dataclasses import replace

import pytest

from orchestrator.costs.budget import BudgetKeeper, budget_lines
from orchestrator.costs.sizes import sizes_by_base
from orchestrator.costs.usage import usage_so_far
from orchestrator.plan.plan import Plan
from orchestrator.record.holes import Outcome
from orchestrator.record.ledger import Ledger
from workers.artifacts.manifests import Manifest
from workers.specs.training import TrialSpec

Make = Callable[..., Manifest]
TASKS = {"names": ["emoji_objects", "font_letters", "mnist_5k"], "max_test": 50}
TWO_LRS = {
    "defaults": {"steps": 10, "lr": 0.01, "batch_size": 8},
    "axes": {"lr": [0.01, 0.001]},
}
# Guesses at 32 pixels: a trial 0.22 s, a merge 0.05 s; a setting 3 trials and 3 merges, 0.81 s.
TRIAL_S, MERGE_S = 10 * 8 * 0.011 / 4, 100 * 0.002 / 4
SETTING_S = 3 * TRIAL_S + 3 * MERGE_S
PRETRAIN_S = 20 * 16 * 0.011 / 4


def seconds(amount: float) -> dict[str, float]:
    """Returns a budget of so many seconds of a core."""
    return {"cpu_hours": amount / 3600}


def needed_in_order(plan: Plan) -> list[TrialSpec]:
    """Returns the trials in the order in which the plan's merges need them."""
    maker = {expert.id: trial for trial in plan.trials for expert in trial.outputs}
    needed = (maker[each.id] for spec in plan.merges.values() for each in spec.experts)
    return list({trial.id: trial for trial in needed}.values())


def test_study_without_a_budget_may_do_everything(make_plan: Callable[..., Plan]) -> None:
    """Nothing is counted and nothing said."""
    plan = make_plan()
    keeper = BudgetKeeper(Ledger(plan, manifests=[]))
    assert not keeper.is_limited
    assert all(keeper.admit(each) for each in (*plan.experts, *plan.merges))
    assert list(budget_lines(plan, keeper=keeper)) == []


@pytest.mark.parametrize(
    ("room_s", "num_trials", "num_merges"),
    [
        (0.1, 0, 0),
        (2 * TRIAL_S, 0, 0),  # trials without their merge are of no use
        (2 * TRIAL_S + MERGE_S, 2, 1),
        (SETTING_S, 3, 3),
        (SETTING_S + 2 * TRIAL_S + MERGE_S, 5, 4),
        (2 * SETTING_S, 6, 6),
    ],
)
def test_room_is_given_in_the_order_of_the_plan_to_whole_groups(
    make_plan: Callable[..., Plan], room_s: float, num_trials: int, num_merges: int
) -> None:
    """First setting first; a trial only together with a merge that it is for."""
    plan = make_plan(finetune=TWO_LRS, tasks=TASKS, budget=seconds(room_s * 1.001))
    ledger = Ledger(plan, manifests=[])
    keeper = BudgetKeeper(ledger)
    trials = [trial.id for trial in needed_in_order(plan)]
    expected = {*trials[:num_trials], *list(plan.merges)[:num_merges]}
    assert keeper.allocation().affordable == expected
    outcomes = [hole.outcome for hole in ledger.state().holes()]
    assert outcomes.count(Outcome.LEFT_OUT) == 6 - num_trials + 6 - num_merges


def test_plan_names_what_is_left_out_and_the_limit_that_is_enough(
    make_plan: Callable[..., Plan],
) -> None:
    """Settings from the end of the plan; the number, rounded up, fits the whole study."""
    fields = {"finetune": TWO_LRS, "tasks": TASKS}
    plan = make_plan(**fields, budget=seconds(SETTING_S + 2 * TRIAL_S + MERGE_S + 0.01))
    keeper = BudgetKeeper(Ledger(plan, manifests=[]))
    used, left_out, enough = budget_lines(plan, keeper=keeper)
    assert used.startswith("budget: used 0 of 0.00036")
    assert "1 trials and 2 merge jobs: lr=0.001 (2 of 3)" in left_out
    proposed = keeper.sufficient_limits()["cpu_hours"]
    assert 2 * SETTING_S / 3600 <= proposed < 1.1 * 2 * SETTING_S / 3600
    assert f"budget.cpu_hours: {proposed:g}" in enough
    again = make_plan(**fields, budget={"cpu_hours": proposed})
    assert BudgetKeeper(Ledger(again, manifests=[])).allocation().left_out == frozenset()


def test_raised_budget_goes_on_where_the_first_one_ended(
    make_plan: Callable[..., Plan], expert_manifest: Make, merge_manifest: Make
) -> None:
    """The plan is the same; what is committed counts, and what is missing starts."""
    low = make_plan(finetune=TWO_LRS, tasks=TASKS, budget=seconds(SETTING_S))
    high = make_plan(finetune=TWO_LRS, tasks=TASKS, budget=seconds(3600))
    assert list(low.merges) == list(high.merges)
    made = [expert_manifest(trial.longest, seconds=0.25) for trial in low.trials[:3]]
    made += [merge_manifest(spec, merge_s=0.1) for spec in list(low.merges.values())[:3]]
    assert not BudgetKeeper(Ledger(low, manifests=made)).allocation().affordable
    keeper = BudgetKeeper(Ledger(high, manifests=made))
    assert keeper.usage().cpu_s == pytest.approx(3 * 0.25 + 3 * 1.6)
    assert len(keeper.allocation().affordable) == 6


def test_running_job_keeps_its_room_until_it_ends(
    make_plan: Callable[..., Plan], expert_manifest: Make
) -> None:
    """At its estimate, and at what it took once that is more; then at what its manifest says."""
    plan = make_plan(tasks=TASKS, budget=seconds(3 * TRIAL_S + 3 * MERGE_S + 0.05))
    now_s = [0.0]
    ledger = Ledger(plan, manifests=[])
    keeper = BudgetKeeper(ledger, clock=lambda: now_s[0])
    first, second, third = needed_in_order(plan)
    assert keeper.admit(first.id)
    keeper.started(first.id)
    now_s[0] = TRIAL_S + 0.3
    keeper.refresh()
    assert keeper.usage().cpu_s == pytest.approx(TRIAL_S + 0.3)
    assert keeper.admit(second.id)
    assert not keeper.admit(third.id)
    ledger.add(expert_manifest(first.longest, seconds=0.1))
    keeper.ended(first.id)
    keeper.refresh()
    assert keeper.usage().cpu_s == pytest.approx(0.1)
    assert keeper.admit(third.id)


def test_time_of_a_stopped_trial_counts_in_the_next_run_until_it_is_committed(
    make_plan: Callable[..., Plan], expert_manifest: Make
) -> None:
    """A budget is not had again by running the command again."""
    plan = make_plan(tasks=TASKS, budget=seconds(1.0))
    now_s = [0.0]
    first = BudgetKeeper(Ledger(plan, manifests=[]), clock=lambda: now_s[0])
    trial = plan.trials[0]
    assert first.admit(trial.id)
    first.started(trial.id)
    now_s[0] = 1.5
    assert first.is_spent()
    first.close()
    assert first.unfinished_s() == {trial.id: 1.5}
    ledger = Ledger(plan, manifests=[])
    again = BudgetKeeper(ledger, unfinished_s=first.unfinished_s())
    assert again.is_spent()
    assert not again.allocation().affordable
    ledger.add(expert_manifest(trial.longest, seconds=0.9))
    assert again.unfinished_s() == {}
    assert again.usage().cpu_s == pytest.approx(0.9)


def test_paused_trial_keeps_its_room_and_its_time_stands_still(
    make_plan: Callable[..., Plan],
) -> None:
    """Nobody else gets what it needs to go on."""
    plan = make_plan(tasks=TASKS, budget=seconds(2 * TRIAL_S + MERGE_S + 0.05))
    now_s = [0.0]
    keeper = BudgetKeeper(Ledger(plan, manifests=[]), clock=lambda: now_s[0])
    first, second, third = needed_in_order(plan)
    assert keeper.admit(first.id)
    keeper.started(first.id)
    now_s[0] += 0.05
    keeper.paused(first.id)
    now_s[0] += 3600
    assert keeper.unfinished_s() == pytest.approx({first.id: 0.05})
    assert keeper.admit(second.id)
    assert not keeper.admit(third.id)
    keeper.started(first.id)
    now_s[0] += 0.05
    assert keeper.usage().cpu_s == pytest.approx(0.1)


def test_snapshots_of_one_trial_count_once(
    make_plan: Callable[..., Plan], expert_manifest: Make
) -> None:
    """The seconds of the later one have those of the earlier one in them."""
    steps = {"defaults": TWO_LRS["defaults"], "axes": {"steps": [10, 20]}}
    plan = make_plan(finetune=steps, tasks=TASKS)
    early, late = plan.trials[0].outputs
    made = [expert_manifest(early, seconds=1.0), expert_manifest(late, seconds=2.0)]
    ledger = Ledger(plan, manifests=made)
    used = usage_so_far(ledger.committed(), unfinished_s={})
    assert used.cpu_s == pytest.approx(2.0)
    assert used.num_bytes == 8000
    halfway = Ledger(plan, manifests=made[:1]).committed()
    assert usage_so_far(halfway, unfinished_s={late.id: 1.5}).cpu_s == pytest.approx(1.5)


def test_gpu_hours_and_dollars_follow_the_share(
    make_plan: Callable[..., Plan], expert_manifest: Make
) -> None:
    """An hour on a quarter of a GPU and two cores."""
    plan = make_plan(
        tasks=TASKS,
        resources={"trial": {"gpu": 0.25, "cpu": 2}},
        budget={"gpu_hours": 0.3, "usd": 1.0, "usd_per_gpu_hour": 2.5, "usd_per_cpu_hour": 0.1},
    )
    made = [expert_manifest(plan.trials[0].longest, seconds=3600.0)]
    keeper = BudgetKeeper(Ledger(plan, manifests=made))
    amounts = keeper.usage().amounts(plan.study.budget)
    assert amounts == {"gpu_hours": pytest.approx(0.25), "usd": pytest.approx(0.825)}
    assert set(keeper.sufficient_limits()) == {"gpu_hours", "usd"}
    assert not keeper.allocation().affordable


def test_bytes_count_base_images_and_experts(make_plan: Callable[..., Plan]) -> None:
    """Room for two experts of three beside what is prepared: 1.5 MB each, 0.9 MB of images."""
    tasks = {**TASKS, "max_train": 100}
    plan = make_plan(tasks=tasks, budget={"gigabytes": (1.5 + 0.9 + 3.2) / 1000})
    ledger = Ledger(plan, manifests=[])
    keeper = BudgetKeeper(ledger, models=sizes_by_base(plan))
    chosen = [each.id in keeper.allocation().affordable for each in needed_in_order(plan)]
    assert chosen == [True, True, False]
    assert keeper.sufficient_limits() == {"gigabytes": pytest.approx(0.0070, abs=0.0003)}


def test_failed_trials_are_failures_and_not_left_out(make_plan: Callable[..., Plan]) -> None:
    """Whatever the budget, nobody waits for them."""
    plan = make_plan(tasks=TASKS, budget=seconds(1e-3))
    ledger = Ledger(plan, manifests=[])
    ledger.fail(needed_in_order(plan)[0].id, reason="broken")
    BudgetKeeper(ledger)
    outcomes = sorted(hole.outcome for hole in ledger.state().holes())
    assert outcomes == ["failed", *["not run"] * 2, *[Outcome.LEFT_OUT] * 3]


def over_pretraining(make_plan: Callable[..., Plan], *, room_s: float) -> Plan:
    """Makes a plan of a base as it is and after 20 steps of 16 images, on three tasks."""
    return make_plan(
        tasks=TASKS,
        backbone={
            "model": "test_resnet",
            "weights": "none",
            "image_size": 32,
            "pretrain": {"tasks": ["mnist_5k"], "steps": 20, "batch_size": 16},
            "axes": {"pretrain_steps": [0, 20]},
        },
        budget=seconds(room_s * 1.001),
    )


@pytest.mark.parametrize(
    ("room_s", "num_runs", "num_merges"),
    [
        (SETTING_S + PRETRAIN_S, 3, 3),  # a base without its experts is of no use
        (SETTING_S + PRETRAIN_S + 2 * TRIAL_S + MERGE_S, 6, 4),
        (2 * SETTING_S + PRETRAIN_S, 7, 6),
    ],
)
def test_pretraining_has_room_together_with_what_waits_for_it(
    make_plan: Callable[..., Plan], room_s: float, num_runs: int, num_merges: int
) -> None:
    """Left out with its trials and merges, and each is said."""
    plan = over_pretraining(make_plan, room_s=room_s)
    ledger = Ledger(plan, manifests=[])
    keeper = BudgetKeeper(ledger)
    chosen = keeper.allocation().affordable
    assert len(chosen - plan.merges.keys()) == num_runs
    assert len(chosen & plan.merges.keys()) == num_merges
    (run,) = plan.bases.trainings
    assert (run.id in chosen) == (num_runs > 3)
    outcomes = [hole.outcome for hole in ledger.state().holes()]
    assert outcomes.count(Outcome.LEFT_OUT) == 7 - num_runs + 6 - num_merges
    said = " ".join(budget_lines(plan, keeper=keeper))
    assert ("1 pretrainings" in said) == (run.id not in chosen)


def test_pretraining_counts_while_it_runs_and_when_it_is_committed(
    make_plan: Callable[..., Plan], base_manifest: Make
) -> None:
    """At the share of a trial, and once."""
    plan = over_pretraining(make_plan, room_s=3600)
    (run,) = plan.bases.trainings
    now_s = [0.0]
    ledger = Ledger(plan, manifests=[])
    keeper = BudgetKeeper(ledger, clock=lambda: now_s[0])
    assert keeper.admit(run.id)
    keeper.started(run.id)
    now_s[0] = 2.0
    assert keeper.usage().cpu_s == pytest.approx(2.0)
    assert keeper.unfinished_s() == {run.id: 2.0}
    ledger.add(base_manifest(run.longest, seconds=1.5))
    keeper.ended(run.id)
    assert keeper.unfinished_s() == {}
    assert keeper.usage().cpu_s == pytest.approx(1.5)
    assert keeper.usage().num_bytes == 4000


def test_images_and_bases_that_are_prepared_count_for_the_share_of_a_merge(
    make_plan: Callable[..., Plan], base_manifest: Make
) -> None:
    """Their seconds are those of the workers that make them."""
    plan = over_pretraining(make_plan, room_s=3600)
    initial = plan.bases.jobs[0].spec
    made = replace(base_manifest(initial), seconds={"prepare": 3.0})
    used = usage_so_far(Ledger(plan, manifests=[made]).committed(), unfinished_s={})
    assert (used.cpu_s, used.num_bytes) == (3.0, 4000)
