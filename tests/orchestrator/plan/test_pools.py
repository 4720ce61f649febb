"""Tests of pools: merges of more experts than the tasks that are scored."""

from collections.abc import Callable

import pytest

from orchestrator.plan.export import plan_file
from orchestrator.plan.plan import Cell, Plan
from orchestrator.study.problems import StudyError
from workers.specs.plan_file import PlanFile

DEFAULTS = {"steps": 10, "lr": 0.01, "batch_size": 8}
SEEDS = {"defaults": DEFAULTS, "axes": {"seed": [0, 1, 2]}}
FIVE = ["emoji_objects", "font_letters", "mnist_5k", "emoji_animals", "emoji_food"]


def cells_on(plan: Plan, axis: str, *, group: str = "2x00") -> list[Cell]:
    return [each for each in plan.cells if each.setting.axis == axis and each.group.name == group]


def test_irrelevant_pools_are_nested_and_of_other_tasks(make_plan: Callable[..., Plan]) -> None:
    """Each larger pool begins with the smaller one; the group's own experts come first."""
    plan = make_plan(tasks=FIVE, groups={"size": 2, "pool": [2, 4, 5]})
    merges = [cell.merge for cell in cells_on(plan, "pool_irrelevant")]
    assert [len(merge.merged) for merge in merges] == [2, 4, 5]
    assert merges[2].pool[:2] == merges[1].pool
    assert {expert.task for expert in merges[2].merged} == set(FIVE)
    assert {merge.experts for merge in merges} == {merges[0].experts}


def test_groups_order_other_tasks_each_in_their_own_way(make_plan: Callable[..., Plan]) -> None:
    """One task does not join every group's pool first."""
    plan = make_plan(tasks=FIVE, groups={"size": 2, "pool": [3]})
    assert len({cell.merge.pool[0].task for cell in plan.cells}) > 1


def test_relevant_pools_take_one_further_expert_of_each_task_first(
    make_plan: Callable[..., Plan],
) -> None:
    """Two tasks with three seeds have six experts, in the order of the settings."""
    plan = make_plan(finetune=SEEDS, groups={"size": 2, "pool": [6], "extra": "relevant"})
    (cell,) = cells_on(plan, "pool_relevant")
    seeds = [expert.hyperparameters.seed for expert in cell.merge.merged]
    assert seeds == [0, 0, 1, 1, 2, 2]
    assert {expert.task for expert in cell.merge.pool} == set(cell.group.tasks)


def test_a_pool_that_adds_nothing_is_the_merge_of_the_group(make_plan: Callable[..., Plan]) -> None:
    """Both axes and the default share the merge and its id."""
    groups = {"size": 2, "pool": [2, 3], "extra": "both"}
    plan = make_plan(finetune=SEEDS, groups=groups)
    first = {
        cells_on(plan, axis)[0].merge.id for axis in ("seed", "pool_irrelevant", "pool_relevant")
    }
    assert len(first) == 1


def test_pools_leave_the_ids_of_all_other_merges(make_plan: Callable[..., Plan]) -> None:
    """A study to which a pool is added keeps what it has, and trains nothing more."""
    before = make_plan(finetune=SEEDS)
    after = make_plan(finetune=SEEDS, groups={"count": 15, "size": 2, "pool": [3], "extra": "both"})
    assert before.merges.keys() < after.merges.keys()
    assert before.experts == after.experts


def test_a_worker_finds_the_pool_in_the_stored_plan(make_plan: Callable[..., Plan]) -> None:
    """The fields of a merge with a pool list its further experts."""
    plan = make_plan(groups={"size": 2, "pool": [3]})
    stored = PlanFile.from_json(plan_file(plan).to_json())
    merge = plan.cells[0].merge
    assert stored.merges[merge.id]["pool"] == [expert.id for expert in merge.pool]


def test_tasks_of_the_pool_are_not_held_out(make_plan: Callable[..., Plan]) -> None:
    """A task whose expert is merged is no task outside of the merge."""
    plan = make_plan(groups={"size": 2, "pool": [2, 3]}, evaluation={"held_out": True})
    small, large = (cell.merge for cell in cells_on(plan, "pool_irrelevant"))
    assert [len(small.held_out), len(large.held_out)] == [1, 0]


def test_a_random_design_with_too_few_experts_is_refused(make_plan: Callable[..., Plan]) -> None:
    """Draws may repeat an expert, which only the plan knows."""
    drawn = {"defaults": DEFAULTS, "axes": {"seed": [5, 6]}, "design": "random", "draws": 3}
    with pytest.raises(StudyError, match=r"a pool has at most [23]"):
        make_plan(finetune=drawn, groups={"size": 2, "pool": [4], "extra": "relevant"})
