"""Choices of parameters that several groups share, in a plan."""

from collections.abc import Callable

from orchestrator.plan.plan import Plan

TASKS = {"names": ["emoji_objects", "font_letters", "mnist_5k"], "max_validation": 20}
TIES = {"method": "ties", "scaling": {"tune": [0.5, 1.0]}}
LRS = {"defaults": {"steps": 10, "lr": 0.01, "batch_size": 8}, "axes": {"lr": [0.01, 0.02]}}
ALONE = "ties (scaling tuned over the setting), each group alone"
SHARED = "ties (scaling tuned over the setting)"


def merges_of(plan: Plan, label: str, setting: str | None = None) -> list[str]:
    cells = [each for each in plan.cells if each.label == label]
    return [each.merge.id for each in cells if setting in (None, each.setting.name)]


def overs_of(plan: Plan, label: str) -> list[str]:
    tunings = [each.merge.tuning for each in plan.cells if each.label == label]
    return [str(each.over) for each in tunings if each is not None]


def test_groups_of_a_setting_share_a_choice(make_plan: Callable[..., Plan]) -> None:
    """The merges that choose for themselves are those of a study without shared choices."""
    plan = make_plan(tasks=TASKS, finetune=LRS, merge=[{**TIES, "tuned_over": "setting"}])
    alone = make_plan(tasks=TASKS, finetune=LRS, merge=[TIES])
    assert [cell.label for cell in plan.cells[:2]] == [ALONE, SHARED]
    assert merges_of(plan, ALONE) == list(alone.merges)
    overs = overs_of(plan, SHARED)
    assert len(overs) == 6
    assert len(set(overs)) == 2
    for setting in plan.settings:
        choosing = merges_of(plan, ALONE, setting.name)
        shared = [each for each in plan.cells if each.label == SHARED and each.setting == setting]
        for cell in shared:
            assert cell.merge.tuning is not None
            assert plan.choosing_merges[str(cell.merge.tuning.over)] == tuple(sorted(choosing))


def test_a_study_wide_choice_reads_all_settings(make_plan: Callable[..., Plan]) -> None:
    """One choice for both learning rates; a listed entry that chooses alone is not made twice."""
    plan = make_plan(
        tasks=TASKS,
        finetune=LRS,
        merge=[{**TIES, "label": "own"}, {**TIES, "label": "one", "tuned_over": "study"}],
    )
    assert {cell.label for cell in plan.cells} == {"own", "one"}
    (over,) = set(overs_of(plan, "one"))
    assert plan.choosing_merges[over] == tuple(sorted(merges_of(plan, "own")))
    assert len(plan.merges) == 12


def test_other_groups_make_another_merge(make_plan: Callable[..., Plan]) -> None:
    """The choice depends on the groups, so the id does."""
    wide = make_plan(tasks=TASKS, merge=[{**TIES, "tuned_over": "setting"}])
    narrow = make_plan(
        tasks=TASKS,
        merge=[{**TIES, "tuned_over": "setting"}],
        groups={"count": 2, "size": 2},
    )
    assert set(merges_of(narrow, ALONE)) < set(merges_of(wide, ALONE))
    assert not set(merges_of(narrow, SHARED)) & set(merges_of(wide, SHARED))
