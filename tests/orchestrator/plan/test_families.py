"""Merges that choose steps, in a plan and in its file."""

from collections.abc import Callable

from orchestrator.plan.data_use import data_use
from orchestrator.plan.plan import Plan
from workers.specs.merge import num_merges_tried, num_validation_passes

TASKS = {"names": ["emoji_objects", "font_letters", "mnist_5k"], "max_validation": 20}
DEFAULTS = {"steps": 20, "lr": 0.01, "batch_size": 8}
AXES = {"steps": [5, 10, 20], "lr": [0.01, 0.02]}
MERGES = [{"method": "average"}, {"method": "average", "steps": "chosen"}]
LABEL = "average (steps chosen)"


def places_of(plan: Plan) -> dict[str, list[tuple[int, ...]]]:
    """Returns the step counts of each chosen merge, by the setting that it stands at."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for cell in plan.cells:
        if cell.merge.snapshots is not None:
            found.setdefault(cell.setting.name, []).append(cell.merge.snapshots.counts)
    return found


def test_one_factor_designs_choose_at_the_defaults(make_plan: Callable[..., Plan]) -> None:
    """The merges stand where the steps are the most; another learning rate has one step count."""
    plan = make_plan(tasks=TASKS, finetune={"defaults": DEFAULTS, "axes": AXES}, merge=MERGES)
    assert places_of(plan) == {"lr=0.01": [(5, 10, 20)] * 3, "steps=20": [(5, 10, 20)] * 3}
    chosen = {cell.merge.id for cell in plan.cells if cell.label == LABEL}
    assert len(chosen) == 3  # both axes show the same merges


def test_grids_choose_at_each_combination_of_the_others(make_plan: Callable[..., Plan]) -> None:
    """Snapshots of one learning rate are never merged with those of another."""
    finetune = {"defaults": DEFAULTS, "axes": AXES, "design": "grid"}
    plan = make_plan(tasks=TASKS, finetune=finetune, merge=MERGES)
    assert set(places_of(plan)) == {"lr=0.01, steps=20", "lr=0.02, steps=20"}
    for cell in plan.cells:
        if cell.merge.snapshots is not None:
            rates = {each.hyperparameters.lr for each in cell.merge.members}
            assert rates == {cell.merge.experts[0].hyperparameters.lr}
            assert len(cell.merge.members) == 6


def test_nothing_further_is_trained_and_other_ids_stay(make_plan: Callable[..., Plan]) -> None:
    """The entry adds merges of experts that the study has anyway."""
    finetune = {"defaults": DEFAULTS, "axes": AXES}
    plan = make_plan(tasks=TASKS, finetune=finetune, merge=MERGES)
    plain = make_plan(tasks=TASKS, finetune=finetune, merge=MERGES[:1])
    assert plan.trials == plain.trials
    assert set(plain.merges) < set(plan.merges)
    rules = [{**MERGES[0], "steps": rule} for rule in ("chosen", "stopped")]
    both = make_plan(tasks=TASKS, finetune=finetune, merge=rules)
    assert len(both.merges) == 6


def test_the_plan_counts_the_choice_and_says_which_labels_it_reads(
    make_plan: Callable[..., Plan],
) -> None:
    """Three common numbers, then two sweeps of two tasks with two further numbers each."""
    plan = make_plan(tasks=TASKS, finetune={"defaults": DEFAULTS, "axes": AXES}, merge=MERGES)
    spec = next(each for each in plan.merges.values() if each.snapshots is not None)
    assert num_validation_passes(spec) == num_merges_tried(spec) == 3 + 2 * 2 * 2
    assert data_use(spec) == "labelled validation"


def test_steps_beside_a_tuned_scaling_take_a_pass_for_each_pair(
    make_plan: Callable[..., Plan],
) -> None:
    """All values of a scaling share one merge; the choice of steps alone has another id."""
    scaled = {"method": "task_arithmetic", "scaling": {"tune": [0.3, 0.6]}}
    merge = [{**scaled, "steps": "chosen"}, {**scaled, "steps": "stopped"}, scaled]
    plan = make_plan(tasks=TASKS, finetune={"defaults": DEFAULTS, "axes": AXES}, merge=merge)
    of_rule = {
        each.snapshots.rule: each for each in plan.merges.values() if each.snapshots is not None
    }
    chosen, stopped = of_rule["chosen"], of_rule["stopped"]
    assert (num_merges_tried(chosen), num_validation_passes(chosen)) == (11, 22)
    assert (num_merges_tried(stopped), num_validation_passes(stopped)) == (1, 3 + 2)
    labels = {cell.label for cell in plan.cells}
    assert labels == {
        "task_arithmetic (scaling tuned, steps chosen)",
        "task_arithmetic (scaling tuned, steps stopped)",
        "task_arithmetic (scaling tuned)",
    }
