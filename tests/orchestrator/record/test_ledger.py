import dataclasses
import random
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from orchestrator.plan.plan import Plan
from orchestrator.record.holes import Outcome
from orchestrator.record.ledger import Ledger
from workers.artifacts.manifests import Manifest
from workers.specs.expert import ExpertSpec

Make = Callable[..., Manifest]
STEPS = {"defaults": {"steps": 10, "lr": 0.01, "batch_size": 8}, "axes": {"steps": [10, 20]}}


@pytest.fixture
def plan(make_plan: Callable[..., Plan]) -> Plan:
    return make_plan()


def experts_of(plan: Plan) -> dict[str, ExpertSpec]:
    return {expert.task: expert for expert in plan.experts.values()}


def test_empty_store_leaves_everything_to_do(plan: Plan) -> None:
    """Three trials can run, no merge is ready, and every expert and merge is a hole."""
    ledger = Ledger(plan, manifests=[])
    assert ledger.committed().missing_trainings == ledger.state().runnable_trainings == plan.trials
    assert ledger.state().ready_merges == ()
    assert not ledger.state().is_finished
    assert vars(ledger.state().counts()) == {
        "num_experts": 3,
        "num_experts_done": 0,
        "num_merges": 3,
        "num_merges_done": 0,
        "num_merges_blocked": 0,
        "num_failed": 0,
    }
    holes = ledger.state().holes()
    assert {(hole.outcome, hole.reason) for hole in holes} == {(Outcome.NOT_RUN, "")}
    assert len(holes) == 6


def test_merge_is_ready_with_its_last_expert(plan: Plan, expert_manifest: Make) -> None:
    """The first expert makes no merge ready, the second one pair, the third the other two pairs."""
    ledger = Ledger(plan, manifests=[])
    released = [
        [spec.id for spec in ledger.add(expert_manifest(expert))]
        for expert in plan.experts.values()
    ]
    assert [len(ids) for ids in released] == [0, 1, 2]
    assert {merge_id for ids in released for merge_id in ids} == set(plan.merges)
    assert [spec.id for spec in ledger.state().ready_merges] == list(plan.merges)


def test_stages_and_axes_count_committed_artifacts(
    make_plan: Callable[..., Plan], expert_manifest: Make, merge_manifest: Make
) -> None:
    """A merge at the default point counts on every axis that the point lies on."""
    plan = make_plan(finetune={**STEPS, "axes": {"lr": [0.01, 0.02], "steps": [10, 20]}})
    ledger = Ledger(plan, manifests=[expert_manifest(each) for each in plan.experts.values()])
    times = Counter(cell.merge.id for cell in plan.cells)
    shared = next(merge_id for merge_id, num in times.items() if num == 2)
    ledger.add(merge_manifest(plan.merges[shared]))
    stages = {each.name: (each.num_done, each.num_planned) for each in ledger.stages()}
    assert stages == {"images": (0, 3), "experts": (9, 9), "merges": (1, 9)}
    axes = {each.name: (each.num_done, each.num_planned) for each in ledger.axes()}
    assert axes == {"lr": (1, 6), "steps": (1, 6)}


def test_counts_are_right_after_every_commit(
    make_plan: Callable[..., Plan],
    all_manifests: Callable[[Plan], list[Manifest]],
    expert_manifest: Make,
) -> None:
    """In any order, with artifacts that come twice or are not in the plan."""
    plan = make_plan(finetune={**STEPS, "axes": {"lr": [0.01, 0.02], "steps": [10, 20]}})
    others = [expert_manifest(each) for each in make_plan(seed=9).experts.values()]
    made = [*all_manifests(plan), *others]
    arriving = random.Random(0).choices(made, k=3 * len(made))
    ledger = Ledger(plan, manifests=[])
    for manifest in arriving:
        ledger.add(manifest)
        committed = ledger.committed()
        stages = {each.name: each.num_done for each in ledger.stages()}
        assert stages == {
            "images": 0,
            "experts": len(committed.experts),
            "merges": len(committed.merges),
        }
        done = Counter(
            cell.setting.axis for cell in plan.cells if cell.merge.id in committed.merges
        )
        assert {each.name: each.num_done for each in ledger.axes()} == {
            axis: done[axis] for axis in ("lr", "steps")
        }
    known = {*plan.experts, *plan.merges}
    first_of_each = dict.fromkeys(each.id for each in arriving if each.id in known)
    assert [each.id for each in ledger.added_since(0)] == list(first_of_each)
    assert ledger.added_since(len(first_of_each) - 2) == ledger.added_since(0)[-2:]


def test_merge_waits_for_held_out_experts(
    make_plan: Callable[..., Plan], expert_manifest: Make
) -> None:
    """A merge of two that is evaluated on a third task needs the head of the third expert."""
    plan = make_plan(evaluation={"held_out": True})
    ledger = Ledger(plan, manifests=[])
    released = [len(ledger.add(expert_manifest(expert))) for expert in plan.experts.values()]
    assert released == [0, 0, 3]


def test_committed_merge_is_not_ready(
    plan: Plan, expert_manifest: Make, merge_manifest: Make
) -> None:
    """It is not run again, and it makes no other merge ready."""
    ledger = Ledger(plan, manifests=[expert_manifest(each) for each in plan.experts.values()])
    done = ledger.state().ready_merges[0]
    assert ledger.add(merge_manifest(done)) == []
    assert done.id not in [spec.id for spec in ledger.state().ready_merges]
    assert ledger.state().counts().num_merges_done == 1


def test_complete_study_is_finished_and_has_no_hole(
    plan: Plan, all_manifests: Callable[[Plan], list[Manifest]]
) -> None:
    """In whatever order the manifests were read."""
    ledger = Ledger(plan, manifests=reversed(all_manifests(plan)))
    assert ledger.state().is_finished
    assert ledger.state().holes() == ()
    assert ledger.committed().missing_trainings == ()


def test_artifacts_of_other_plans_are_ignored(
    plan: Plan,
    make_plan: Callable[..., Plan],
    all_manifests: Callable[[Plan], list[Manifest]],
) -> None:
    """Studies share a store."""
    ledger = Ledger(plan, manifests=all_manifests(make_plan(seed=9)))
    committed = ledger.committed()
    assert (committed.experts, committed.merges) == ({}, {})


def test_remainder_of_a_trial_has_the_missing_snapshots(
    make_plan: Callable[..., Plan], expert_manifest: Make
) -> None:
    """After the first of two snapshots the remainder commits the second alone."""
    plan = make_plan(finetune=STEPS)
    trial = plan.trials[0]
    ledger = Ledger(plan, manifests=[expert_manifest(trial.outputs[0])])
    left = ledger.committed().missing_trainings
    assert [each.snapshots for each in left] == [(20,), (10, 20), (10, 20)]
    assert left[0].id == trial.id
    assert left[1] is plan.trials[1], "no work for the trials that a commit does not concern"


def test_diverged_expert_with_finite_weights_is_merged(plan: Plan, expert_manifest: Make) -> None:
    """Its weights can be used, so it is no hole; it is known as diverged."""
    experts = plan.experts.values()
    ledger = Ledger(plan, manifests=[expert_manifest(e, outcome="diverged") for e in experts])
    assert ledger.committed().diverged == plan.experts.keys()
    assert len(ledger.state().ready_merges) == 3
    assert {hole.outcome for hole in ledger.state().holes()} == {Outcome.NOT_RUN}


def test_diverged_expert_without_weights_blocks_its_merges(
    plan: Plan, expert_manifest: Make
) -> None:
    """The two merges that need it name it as the reason; the third merge is ready."""
    experts = experts_of(plan)
    bad = experts["mnist_5k"]
    ledger = Ledger(
        plan,
        manifests=[
            expert_manifest(each, test=None, outcome="diverged")
            if each is bad
            else expert_manifest(each)
            for each in experts.values()
        ],
    )
    (ready,) = ledger.state().ready_merges
    assert bad not in ready.experts
    assert ledger.state().counts().num_merges_blocked == 2
    diverged, *merges = sorted(ledger.state().holes(), key=lambda hole: hole.outcome)
    assert (diverged.outcome, diverged.reason) == (Outcome.DIVERGED, "not finite after 10 steps")
    assert diverged.what == f"expert {bad.id}: mnist_5k at lr=0.01, steps=10"
    reasons = [hole.reason for hole in merges]
    blocked = f"blocked by diverged expert {bad.id} of mnist_5k"
    assert sorted(reasons) == ["", blocked, blocked]


def test_study_with_only_blocked_merges_is_finished(
    plan: Plan, expert_manifest: Make, merge_manifest: Make
) -> None:
    """No run could make the blocked merges."""
    experts = experts_of(plan)
    good = [expert_manifest(experts[task]) for task in ("emoji_objects", "font_letters")]
    bad = expert_manifest(experts["mnist_5k"], test=None, outcome="diverged")
    ledger = Ledger(plan, manifests=[*good, bad])
    assert not ledger.state().is_finished
    ledger.add(merge_manifest(ledger.state().ready_merges[0]))
    assert ledger.state().is_finished


def test_failed_trial_cannot_run_and_blocks_its_merges(plan: Plan, expert_manifest: Make) -> None:
    """Its expert is a failed hole with the reason; the merges that need it name it."""
    experts = experts_of(plan)
    ledger = Ledger(plan, manifests=[expert_manifest(experts["font_letters"])])
    bad = experts["mnist_5k"]
    ledger.fail(bad.id, reason="OSError: gone")
    assert bad.id not in [trial.id for trial in ledger.state().runnable_trainings]
    assert bad.id in [trial.id for trial in ledger.committed().missing_trainings]
    assert (ledger.state().counts().num_failed, ledger.state().counts().num_merges_blocked) == (
        1,
        2,
    )
    (failed,) = [hole for hole in ledger.state().holes() if hole.outcome is Outcome.FAILED]
    assert failed.reason == "OSError: gone"
    assert bad.id in failed.what
    blocked = [hole.reason for hole in ledger.state().holes() if hole.reason.startswith("blocked")]
    assert blocked == [f"blocked by failed expert {bad.id} of mnist_5k"] * 2


def test_committed_snapshot_of_a_failed_trial_is_no_hole(
    make_plan: Callable[..., Plan], expert_manifest: Make
) -> None:
    """A trial that fails after 10 of 20 steps lacks the second expert alone."""
    plan = make_plan(finetune=STEPS)
    trial = plan.trials[0]
    ledger = Ledger(plan, manifests=[expert_manifest(trial.outputs[0])])
    ledger.fail(trial.id, reason="killed")
    failed = [hole.what for hole in ledger.state().holes() if hole.outcome is Outcome.FAILED]
    assert len(failed) == 1
    assert trial.outputs[1].id in failed[0]


def test_failed_remainder_of_a_trial_names_the_missing_expert(
    make_plan: Callable[..., Plan], expert_manifest: Make
) -> None:
    """If the longest expert exists, the remainder has the id of a shorter one."""
    plan = make_plan(finetune=STEPS)
    short, long = plan.trials[0].outputs
    ledger = Ledger(plan, manifests=[expert_manifest(long)])
    assert ledger.committed().missing_trainings[0].id == short.id
    ledger.fail(short.id, reason="killed")
    failed = [hole.what for hole in ledger.state().holes() if hole.outcome is Outcome.FAILED]
    assert len(failed) == 1
    assert short.id in failed[0]


def test_failed_merge_is_not_ready(plan: Plan, expert_manifest: Make) -> None:
    """It is a hole with its reason."""
    ledger = Ledger(plan, manifests=[expert_manifest(each) for each in plan.experts.values()])
    bad = ledger.state().ready_merges[1]
    ledger.fail(bad.id, reason="MismatchError: shapes")
    assert bad not in ledger.state().ready_merges
    (failed,) = [hole for hole in ledger.state().holes() if hole.outcome is Outcome.FAILED]
    assert failed.what == f"merge {bad.id}: average on 2x01 at default"
    assert failed.reason == "MismatchError: shapes"


def test_commit_cancels_an_earlier_failure(plan: Plan, expert_manifest: Make) -> None:
    """A worker that was given up may still have committed."""
    expert = next(iter(plan.experts.values()))
    ledger = Ledger(plan, manifests=[])
    ledger.fail(expert.id, reason="lost")
    ledger.add(expert_manifest(expert))
    assert ledger.state().counts().num_failed == 0
    assert Outcome.FAILED not in {hole.outcome for hole in ledger.state().holes()}


def test_snapshot_cannot_be_changed(plan: Plan, expert_manifest: Make) -> None:
    """Neither its mappings nor its fields."""
    expert, other = list(plan.experts.values())[:2]
    committed = Ledger(plan, manifests=[expert_manifest(expert)]).committed()
    with pytest.raises(TypeError):
        committed.experts[other.id] = expert_manifest(other)  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        committed.experts = {}  # type: ignore[misc]


def test_snapshot_is_copied_only_after_a_commit(plan: Plan, expert_manifest: Make) -> None:
    """An older snapshot stays as it was; without a commit the same one is returned."""
    ledger = Ledger(plan, manifests=[])
    before = ledger.committed()
    assert ledger.committed() is before
    manifest = expert_manifest(next(iter(plan.experts.values())))
    ledger.add(manifest)
    assert before.experts == {}
    assert ledger.committed().experts == {manifest.id: manifest}


def test_snapshots_are_consistent_while_another_thread_commits(
    plan: Plan, all_manifests: Callable[[Plan], list[Manifest]]
) -> None:
    """Every snapshot holds the experts that were committed first, without a gap."""
    experts = [each for each in all_manifests(plan) if each.kind == "expert"]
    ledger = Ledger(plan, manifests=[])
    start, stop = threading.Barrier(2), threading.Event()

    def commit() -> None:
        start.wait()
        for _ in range(200):
            for manifest in experts:
                ledger.add(manifest)
        stop.set()

    writer = threading.Thread(target=commit)
    writer.start()
    start.wait()
    sizes = [0]
    while not stop.is_set():
        found = list(ledger.committed().experts)
        assert found == [each.id for each in experts[: len(found)]]
        sizes.append(len(found))
    writer.join()
    assert sizes == sorted(sizes)
    assert len(ledger.committed().experts) == len(experts)


def test_single_artifacts_are_looked_up_without_a_snapshot(
    plan: Plan, expert_manifest: Make, merge_manifest: Make
) -> None:
    """By id, and all experts of a merge at once."""
    spec = next(iter(plan.merges.values()))
    made = {each.id: expert_manifest(each) for each in spec.experts}
    ledger = Ledger(plan, manifests=[])
    assert ledger.experts_of(spec) == {}
    for manifest in made.values():
        ledger.add(manifest)
    assert ledger.experts_of(spec) == made
    assert not ledger.is_committed(spec.id)
    ledger.add(merge_manifest(spec))
    assert ledger.is_committed(spec.id)


def test_state_is_made_anew_only_after_a_change(plan: Plan, expert_manifest: Make) -> None:
    """A commit, a failure and an exclusion give a new state; an older state keeps its answers."""
    expert, other = list(plan.experts.values())[:2]
    ledger = Ledger(plan, manifests=[])
    states = [ledger.state()]
    assert ledger.state() is states[0]
    ledger.add(expert_manifest(expert))
    states.append(ledger.state())
    ledger.fail(other.id, reason="OSError: gone")
    states.append(ledger.state())
    ledger.leave_out(plan.merges)
    states.append(ledger.state())
    assert [len(state.committed.experts) for state in states] == [0, 1, 1, 1]
    assert [state.counts().num_failed for state in states] == [0, 0, 1, 1]
    assert [len(state.left_out) for state in states] == [0, 0, 0, len(plan.merges)]
    assert [len(state.possible_trainings) for state in states] == [3, 2, 1, 1]


def test_blocked_merge_is_not_said_to_lack_budget(plan: Plan) -> None:
    """It names its failed expert, although the budget leaves it out as well."""
    ledger = Ledger(plan, manifests=[])
    ledger.leave_out(plan.merges)
    bad = next(iter(plan.experts.values()))
    ledger.fail(bad.id, reason="OSError: gone")
    outcomes = Counter(hole.outcome for hole in ledger.state().holes() if hole.kind == "merge")
    assert outcomes == {Outcome.NOT_RUN: 2, Outcome.LEFT_OUT: 1}
