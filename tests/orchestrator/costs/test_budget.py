from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from manual_clock import ManualClock

from orchestrator.costs import budget as budget_module
from orchestrator.costs.allocation import Allocation, allocate
from orchestrator.costs.budget import ALLOCATE_FRAC, BudgetKeeper, budget_lines
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
    """Returns a budget of some seconds of one core."""
    return {"cpu_hours": amount / 3600}


def needed_in_order(plan: Plan) -> list[TrialSpec]:
    """Returns the trials in the order in which the plan's merges need them."""
    maker = {expert.id: trial for trial in plan.trials for expert in trial.outputs}
    needed = (maker[each.id] for spec in plan.merges.values() for each in spec.experts)
    return list({trial.id: trial for trial in needed}.values())


def test_study_without_a_budget_admits_every_job(make_plan: Callable[..., Plan]) -> None:
    """Nothing is reported."""
    plan = make_plan()
    keeper = BudgetKeeper(Ledger(plan, manifests=[]))
    assert not keeper.is_limited
    assert all(keeper.admit(each) for each in (*plan.experts, *plan.merges))
    assert list(budget_lines(plan, keeper=keeper)) == []


@pytest.mark.parametrize(
    ("room_s", "num_trials", "num_merges"),
    [
        (0.1, 0, 0),
        (2 * TRIAL_S, 0, 0),  # two trials without their merge are useless
        (2 * TRIAL_S + MERGE_S, 2, 1),
        (SETTING_S, 3, 3),
        (SETTING_S + 2 * TRIAL_S + MERGE_S, 5, 4),
        (2 * SETTING_S, 6, 6),
    ],
)
def test_whole_groups_get_room_in_the_order_of_the_plan(
    make_plan: Callable[..., Plan], room_s: float, num_trials: int, num_merges: int
) -> None:
    """A trial gets room only together with a merge that needs it."""
    plan = make_plan(finetune=TWO_LRS, tasks=TASKS, budget=seconds(room_s * 1.001))
    ledger = Ledger(plan, manifests=[])
    keeper = BudgetKeeper(ledger)
    trials = [trial.id for trial in needed_in_order(plan)]
    expected = {*trials[:num_trials], *list(plan.merges)[:num_merges]}
    assert keeper.allocation().affordable == expected
    outcomes = [hole.outcome for hole in ledger.state().holes()]
    assert outcomes.count(Outcome.LEFT_OUT) == 6 - num_trials + 6 - num_merges


def test_lines_name_the_settings_left_out_and_a_sufficient_limit(
    make_plan: Callable[..., Plan],
) -> None:
    """The proposed limit is rounded up and fits the whole study."""
    fields = {"finetune": TWO_LRS, "tasks": TASKS}
    plan = make_plan(**fields, budget=seconds(SETTING_S + 2 * TRIAL_S + MERGE_S + 0.01))
    keeper = BudgetKeeper(Ledger(plan, manifests=[]))
    used, left_out, enough = budget_lines(plan, keeper=keeper)
    assert used.startswith("budget: used 0 of 0.00036")
    assert "1 trial and 2 merge jobs: lr=0.001 (2 of 3)" in left_out
    proposed = keeper.sufficient_limits()["cpu_hours"]
    assert 2 * SETTING_S / 3600 <= proposed < 1.1 * 2 * SETTING_S / 3600
    assert f"budget.cpu_hours: {proposed:g}" in enough
    again = make_plan(**fields, budget={"cpu_hours": proposed})
    assert BudgetKeeper(Ledger(again, manifests=[])).allocation().left_out == frozenset()


def test_raised_budget_admits_the_rest_of_the_plan(
    make_plan: Callable[..., Plan], expert_manifest: Make, merge_manifest: Make
) -> None:
    """The plan is the same; committed artifacts count as used."""
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
    """It counts its estimate, its own time once that is longer, and in the end its manifest."""
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


class CountingLedger(Ledger):
    """Counts the manifests that others read of it."""

    num_read = 0

    def added_since(self, num_seen: int) -> Sequence[Manifest]:
        """Counts what it returns."""
        added = super().added_since(num_seen)
        self.num_read += len(added)
        return added


def test_usage_reads_each_manifest_once(
    make_plan: Callable[..., Plan], expert_manifest: Make, merge_manifest: Make
) -> None:
    """It is asked for after each report of a trial; snapshots of one trial count the longest."""
    steps = {"defaults": {"lr": 0.01, "batch_size": 8}, "axes": {"steps": [10, 20]}}
    plan = make_plan(finetune=steps, tasks=TASKS, budget=seconds(1000))
    ledger, clock = CountingLedger(plan, manifests=[]), ManualClock()
    keeper = BudgetKeeper(ledger, clock=clock)
    made = [
        expert_manifest(expert, seconds=float(expert.hyperparameters.steps))
        for expert in plan.experts.values()
    ]
    made += [merge_manifest(spec, merge_s=0.5) for spec in plan.merges.values()]
    for manifest in made:
        ledger.add(manifest)
        usage = keeper.usage()
        alone = usage_so_far(ledger.committed(), unfinished_s={})
        assert (usage.cpu_s, usage.num_bytes) == (pytest.approx(alone.cpu_s), alone.num_bytes)
    assert keeper.usage().cpu_s == pytest.approx(3 * 20 + len(plan.merges) * 2.0)
    assert ledger.num_read == len(made)


def test_seconds_of_committed_trials_are_forgotten(
    make_plan: Callable[..., Plan], expert_manifest: Make
) -> None:
    """Their manifests have them, so what is unfinished does not grow with the study."""
    plan, clock = make_plan(tasks=TASKS, budget=seconds(1000)), ManualClock()
    ledger = Ledger(plan, manifests=[])
    keeper = BudgetKeeper(ledger, clock=clock)
    done, failed, _ = plan.trials
    for trial in (done, failed):
        keeper.started(trial.id)
        clock.now_s += 3
        if trial is done:
            ledger.add(expert_manifest(trial.longest, seconds=2.0))
        keeper.ended(trial.id)
    assert keeper.unfinished_s() == {failed.id: 3.0}
    assert keeper.usage().cpu_s == pytest.approx(2.0 + 3.0)


def test_allocations_take_a_small_part_of_the_time(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a large study take longer and are made more rarely, however often one asks."""
    clock, took_s, began_s = ManualClock(), 2.0, list[float]()

    def slow(*args: object, **kwargs: object) -> Allocation:
        began_s.append(clock.now_s)
        clock.now_s += took_s
        return allocate(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(budget_module, "allocate", slow)
    plan = make_plan(tasks=TASKS, budget=seconds(1000))
    keeper = BudgetKeeper(Ledger(plan, manifests=[]), clock=clock)
    while clock.now_s < 400:
        assert keeper.has_room_for(plan.trials[0].id)
        clock.now_s += 0.1
    assert len(began_s) * took_s == pytest.approx(400 * ALLOCATE_FRAC, rel=0.1)


def test_seconds_of_a_stopped_trial_count_in_the_next_run(
    make_plan: Callable[..., Plan], expert_manifest: Make
) -> None:
    """Running the command again does not renew the budget. A commit replaces the seconds."""
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


def test_paused_trial_keeps_its_room_and_adds_no_time(
    make_plan: Callable[..., Plan],
) -> None:
    """No other job gets the room that the trial needs to continue."""
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
    """The seconds of the later snapshot include those of the earlier one."""
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


def test_bytes_of_base_images_and_experts_count(make_plan: Callable[..., Plan]) -> None:
    """The limit fits the base, the images (0.9 MB) and two of three experts (1.5 MB each)."""
    tasks = {**TASKS, "max_train": 100}
    plan = make_plan(tasks=tasks, budget={"gigabytes": (1.5 + 0.9 + 3.2) / 1000})
    ledger = Ledger(plan, manifests=[])
    keeper = BudgetKeeper(ledger, models=sizes_by_base(plan))
    chosen = [each.id in keeper.allocation().affordable for each in needed_in_order(plan)]
    assert chosen == [True, True, False]
    assert keeper.sufficient_limits() == {"gigabytes": pytest.approx(0.0070, abs=0.0003)}


def test_failed_trials_are_not_left_out(make_plan: Callable[..., Plan]) -> None:
    """They cannot run, whatever the budget."""
    plan = make_plan(tasks=TASKS, budget=seconds(1e-3))
    ledger = Ledger(plan, manifests=[])
    ledger.fail(needed_in_order(plan)[0].id, reason="broken")
    BudgetKeeper(ledger)
    outcomes = sorted(hole.outcome for hole in ledger.state().holes())
    assert outcomes == ["failed", *["not run"] * 2, *[Outcome.LEFT_OUT] * 3]


def over_pretraining(make_plan: Callable[..., Plan], *, room_s: float) -> Plan:
    """Makes a plan over a base without pretraining and after 20 steps of 16 images."""
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
    ("room_s", "num_trainings", "num_merges"),
    [
        (SETTING_S + PRETRAIN_S, 3, 3),  # a base without its experts is useless
        (SETTING_S + PRETRAIN_S + 2 * TRIAL_S + MERGE_S, 6, 4),
        (2 * SETTING_S + PRETRAIN_S, 7, 6),
    ],
)
def test_pretraining_gets_room_together_with_a_merge(
    make_plan: Callable[..., Plan], room_s: float, num_trainings: int, num_merges: int
) -> None:
    """Without room for a merge on its base, it is left out with its trials."""
    plan = over_pretraining(make_plan, room_s=room_s)
    ledger = Ledger(plan, manifests=[])
    keeper = BudgetKeeper(ledger)
    chosen = keeper.allocation().affordable
    assert len(chosen - plan.merges.keys()) == num_trainings
    assert len(chosen & plan.merges.keys()) == num_merges
    (training,) = plan.bases.trainings
    assert (training.id in chosen) == (num_trainings > 3)
    outcomes = [hole.outcome for hole in ledger.state().holes()]
    assert outcomes.count(Outcome.LEFT_OUT) == 7 - num_trainings + 6 - num_merges
    lines = " ".join(budget_lines(plan, keeper=keeper))
    assert ("1 pretraining, " in lines) == (training.id not in chosen)


@pytest.mark.parametrize(
    ("room_s", "num_affordable"),
    [
        (3 * TRIAL_S + PRETRAIN_S, 3),  # a base without an expert is useless
        (4 * TRIAL_S + PRETRAIN_S, 5),
        (6 * TRIAL_S + PRETRAIN_S, 7),
    ],
)
def test_pretraining_gets_room_together_with_a_trial_that_no_merge_needs(
    make_plan: Callable[..., Plan], room_s: float, num_affordable: int
) -> None:
    """After failed merges the trials get room in the plan's order, with their pretraining."""
    plan = over_pretraining(make_plan, room_s=room_s)
    ledger = Ledger(plan, manifests=[])
    for merge_id in plan.merges:
        ledger.fail(merge_id, reason="MergeError: not finite")
    affordable = BudgetKeeper(ledger).allocation().affordable
    assert len(affordable) == num_affordable
    (training,) = plan.bases.trainings
    assert (training.id in affordable) == (num_affordable > 3)


def test_pretraining_counts_while_it_runs_and_when_it_is_committed(
    make_plan: Callable[..., Plan], base_manifest: Make
) -> None:
    """It counts once, at the share of a trial."""
    plan = over_pretraining(make_plan, room_s=3600)
    (training,) = plan.bases.trainings
    now_s = [0.0]
    ledger = Ledger(plan, manifests=[])
    keeper = BudgetKeeper(ledger, clock=lambda: now_s[0])
    assert keeper.admit(training.id)
    keeper.started(training.id)
    now_s[0] = 2.0
    assert keeper.usage().cpu_s == pytest.approx(2.0)
    assert keeper.unfinished_s() == {training.id: 2.0}
    ledger.add(base_manifest(training.longest, seconds=1.5))
    keeper.ended(training.id)
    assert keeper.unfinished_s() == {}
    assert keeper.usage().cpu_s == pytest.approx(1.5)
    assert keeper.usage().num_bytes == 4000


def test_preparation_counts_at_the_share_of_a_merge(
    make_plan: Callable[..., Plan], base_manifest: Make
) -> None:
    """Merge workers prepare the bases and the images."""
    plan = over_pretraining(make_plan, room_s=3600)
    initial = plan.bases.jobs[0].spec
    made = replace(base_manifest(initial), seconds={"prepare": 3.0})
    used = usage_so_far(Ledger(plan, manifests=[made]).committed(), unfinished_s={})
    assert (used.cpu_s, used.num_bytes) == (3.0, 4000)
