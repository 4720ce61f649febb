import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from eval.metrics import TaskSums
from orchestrator.plan.plan import Plan
from orchestrator.record.ledger import Ledger
from orchestrator.results.rows import experts_table, results_table
from orchestrator.results.schema import EXPERTS_SCHEMA, MICRO_BATCH, RESULTS_SCHEMA, SKIPPED
from workers.artifacts.manifests import Manifest

Make = Callable[..., Manifest]
DEFAULTS = {"steps": 10, "lr": 0.01, "batch_size": 8}
RANDOM = {
    "defaults": DEFAULTS,
    "axes": {"lr": [10.0**-power for power in range(12)]},
    "design": "random",
}
PAIR = {"tasks": ["font_letters", "mnist_5k"]}


def sums(num_examples: int, num_correct: int, loss_sum: float) -> TaskSums:
    return TaskSums(num_examples=num_examples, num_correct=num_correct, loss_sum=loss_sum)


MERGED = {"font_letters": sums(100, 60, 120.0), "mnist_5k": sums(300, 270, 90.0)}
EXPERTS = {"font_letters": sums(100, 80, 50.0), "mnist_5k": sums(300, 300, 30.0)}
BASES = {"font_letters": sums(100, 20, 250.0), "mnist_5k": sums(300, 120, 450.0)}


@pytest.fixture
def pair_ledger(
    make_plan: Callable[..., Plan], expert_manifest: Make, merge_manifest: Make
) -> Callable[..., Ledger]:
    """Makes the ledger of one pair of tasks with the sums given above."""

    def make(
        *,
        merged: Mapping[str, TaskSums] = MERGED,
        experts: Mapping[str, TaskSums] = EXPERTS,
        **changes: object,
    ) -> Ledger:
        plan = make_plan(**{**PAIR, **changes})
        made = [
            expert_manifest(each, test=experts[each.task], base=BASES[each.task])
            for each in plan.experts.values()
        ]
        merges = [merge_manifest(each, tasks=merged) for each in plan.merges.values()]
        return Ledger(plan, manifests=[*made, *merges])

    return make


def by_task(table: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["task"]: row for row in table.to_pylist()}


def test_macro_and_union_equal_the_values_by_hand(pair_ledger: Callable[..., Ledger]) -> None:
    """0.6 and 0.9 of 100 and 300 images: 0.75 over the tasks, 330/400 over the images."""
    rows = by_task(results_table(pair_ledger().committed()))
    macro, union = rows["macro"], rows["union"]
    assert macro["accuracy"] == pytest.approx(0.75)
    assert macro["loss"] == pytest.approx((1.2 + 0.3) / 2)
    assert union["accuracy"] == pytest.approx(330 / 400)
    assert union["loss"] == pytest.approx(210 / 400)
    assert (macro["expert_accuracy"], macro["base_accuracy"]) == pytest.approx((0.9, 0.3))
    assert (macro["expert_loss"], macro["base_loss"]) == pytest.approx((0.3, 2.0))
    assert (union["expert_accuracy"], union["base_accuracy"]) == pytest.approx((0.95, 0.35))
    assert (union["expert_loss"], union["base_loss"]) == pytest.approx((0.2, 1.75))


def test_normalized_accuracy_is_merged_over_expert(pair_ledger: Callable[..., Ledger]) -> None:
    """0.75 and 0.9 per task; the mean of both is macro, 0.825/0.95 is union."""
    rows = by_task(results_table(pair_ledger().committed()))
    normalized = {task: row["normalized_accuracy"] for task, row in rows.items()}
    assert normalized == pytest.approx(
        {"font_letters": 0.75, "mnist_5k": 0.9, "macro": 0.825, "union": 0.825 / 0.95}
    )


def test_rows_have_every_column_as_documented(pair_ledger: Callable[..., Ledger]) -> None:
    """One row of a task in full: only columns without effect are null."""
    ledger = pair_ledger(merge=[{"method": "ties", "label": "T"}])
    (merge,) = ledger.plan.merges.values()
    table = results_table(ledger.committed())
    assert table.schema == RESULTS_SCHEMA
    assert by_task(table)["font_letters"] == {
        "study": "small",
        "backbone": "test_resnet",
        "weights": "none",
        "pretrain_steps": 0,
        "axis": "default",
        "value": "default",
        "setting": "default",
        "method": "T",
        "data_use": "none",
        "per_task_modules": False,
        "group": "2x00",
        "num_tasks": 2,
        "task": "font_letters",
        "held_out": False,
        "steps": 10,
        "batch_size": 8,
        "lr": 0.01,
        "data_ratio": 1.0,
        "optimizer": "sgd",
        "seed": 0,
        "weight_decay": 0.0,
        "sam_rho": 0.0,
        "schedule": "constant",
        "warmup_steps": 0,
        "head": "trained",
        "average_weights": "none",
        "ema_decay": None,
        "swa_start": None,
        "augment": "none",
        "linearised": False,
        "num_examples": 100,
        "accuracy": 0.6,
        "loss": 1.2,
        "normalized_accuracy": pytest.approx(0.75),
        "expert_accuracy": 0.8,
        "expert_loss": 0.5,
        "base_accuracy": 0.2,
        "base_loss": 2.5,
        "merge_id": merge.id,
        "expert_id": merge.experts[0].id,
    }


def test_means_have_the_point_all_images_and_no_expert(pair_ledger: Callable[..., Ledger]) -> None:
    """The expert's id and hyperparameters without effect are null; all others are not."""
    rows = by_task(results_table(pair_ledger().committed()))
    for name in ("macro", "union"):
        null = [key for key, value in rows[name].items() if value is None]
        assert null == ["ema_decay", "swa_start", "expert_id"]
        assert (rows[name]["num_examples"], rows[name]["lr"]) == (400, 0.01)


def test_loss_that_is_nan_stays_nan(pair_ledger: Callable[..., Ledger]) -> None:
    """A collapsed merge has accuracies; its loss is NaN in its row and in both means."""
    collapsed = {**MERGED, "mnist_5k": sums(300, 30, math.nan)}
    rows = by_task(results_table(pair_ledger(merged=collapsed).committed()))
    assert rows["font_letters"]["loss"] == pytest.approx(1.2)
    assert all(math.isnan(rows[task]["loss"]) for task in ("mnist_5k", "macro", "union"))
    assert rows["macro"]["accuracy"] == pytest.approx(0.35)


def test_expert_without_a_hit_has_no_normalized_accuracy(
    pair_ledger: Callable[..., Ledger],
) -> None:
    """Nothing is divided by zero: the task and the mean of the ratios are NaN."""
    experts = {**EXPERTS, "mnist_5k": sums(300, 0, 900.0)}
    rows = by_task(results_table(pair_ledger(experts=experts).committed()))
    assert math.isnan(rows["mnist_5k"]["normalized_accuracy"])
    assert math.isnan(rows["macro"]["normalized_accuracy"])
    assert rows["union"]["normalized_accuracy"] == pytest.approx(330 / 80)


def test_held_out_task_has_a_row_and_is_in_no_mean(
    make_plan: Callable[..., Plan], expert_manifest: Make, merge_manifest: Make
) -> None:
    """The means are those of the pair, whatever the third task scores."""
    plan = make_plan(evaluation={"held_out": True})
    experts = [expert_manifest(each) for each in plan.experts.values()]
    cell = plan.cells[0]
    (held_out,) = cell.merge.held_out
    manifest = merge_manifest(cell.merge, tasks={held_out.task: sums(900, 900, 0.0)})
    rows = by_task(results_table(Ledger(plan, manifests=[*experts, manifest]).committed()))
    assert [row["held_out"] for row in rows.values()] == [False, False, True, False, False]
    assert rows[held_out.task]["accuracy"] == 1.0
    assert rows[held_out.task]["expert_id"] == held_out.id
    for name in ("macro", "union"):
        assert (rows[name]["accuracy"], rows[name]["loss"]) == (0.8, 0.5)
        assert rows[name]["num_examples"] == 200


def test_means_of_different_points_have_no_point(
    make_plan: Callable[..., Plan], all_manifests: Callable[[Plan], list[Manifest]]
) -> None:
    """In a random design, a task's row has its expert's point, and the means have none."""
    plan = make_plan(finetune=RANDOM, **PAIR)
    rows = by_task(results_table(Ledger(plan, manifests=all_manifests(plan)).committed()))
    points = {expert.task: expert.hyperparameters.lr for expert in plan.cells[0].merge.experts}
    assert len(set(points.values())) == 2
    assert {task: rows[task]["lr"] for task in points} == points
    for column in ("steps", "batch_size", "lr", "data_ratio", "optimizer", "seed"):
        assert rows["macro"][column] is rows["union"][column] is None


def test_table_has_every_setting_method_group_and_task(
    make_plan: Callable[..., Plan], all_manifests: Callable[[Plan], list[Manifest]]
) -> None:
    """Groups x (tasks + 2) rows for each of 4 settings and 2 methods, shared points too."""
    plan = make_plan(
        finetune={"defaults": DEFAULTS, "axes": {"lr": [0.01, 0.1], "steps": [10, 20]}},
        merge=[{"method": "average"}, {"method": "ties"}],
    )
    table = results_table(Ledger(plan, manifests=all_manifests(plan)).committed())
    assert table.num_rows == 4 * 2 * 3 * (2 + 2)
    keys = [tuple(row[k] for k in ("setting", "method", "group", "task")) for row in _rows(table)]
    assert len(set(keys)) == len(keys)
    shared = {
        (row["method"], row["group"]): row["merge_id"]
        for row in _rows(table)
        if row["setting"] == "lr=0.01"
    }
    for row in _rows(table):
        if row["setting"] == "steps=10":
            assert row["merge_id"] == shared[row["method"], row["group"]]


def test_merge_that_is_missing_has_no_rows(
    make_plan: Callable[..., Plan], all_manifests: Callable[[Plan], list[Manifest]]
) -> None:
    """The table of an unfinished study has all columns and the rows of existing merges."""
    plan = make_plan()
    *manifests, _ = all_manifests(plan)
    assert results_table(Ledger(plan, manifests=manifests).committed()).num_rows == 2 * 4
    empty = results_table(Ledger(plan, manifests=[]).committed())
    assert (empty.num_rows, empty.schema) == (0, RESULTS_SCHEMA)


def test_table_does_not_depend_on_the_order_of_commits(
    make_plan: Callable[..., Plan], all_manifests: Callable[[Plan], list[Manifest]]
) -> None:
    """Two runs that commit in different orders end with equal tables."""
    plan = make_plan(merge=[{"method": "average"}, {"method": "ties"}])
    manifests = all_manifests(plan)
    forward, backward = Ledger(plan, manifests=manifests), Ledger(plan, manifests=manifests[::-1])
    assert results_table(forward.committed()).equals(results_table(backward.committed()))
    assert experts_table(forward.committed()).equals(experts_table(backward.committed()))


@pytest.mark.parametrize(
    ("skipped", "expected"),
    [
        ({"font_letters": 3, "mnist_5k": 0}, {"font_letters": 3, "mnist_5k": 0}),
        ({"mnist_5k": 2}, {"font_letters": None, "mnist_5k": 2}),
    ],
)
def test_skipped_images_are_counted_in_both_tables(
    make_plan: Callable[..., Plan],
    all_manifests: Callable[[Plan], list[Manifest]],
    data_manifest: Make,
    skipped: Mapping[str, int],
    expected: Mapping[str, int | None],
) -> None:
    """The means count those of all tasks; a task whose images have no manifest has no number."""
    tasks = {"names": ["font_letters", "mnist_5k"], "on_bad_image": "skip"}
    plan = make_plan(tasks=tasks)
    images = [
        data_manifest(spec, num_skipped=skipped[spec.task])
        for spec in plan.datasets
        if spec.task in skipped
    ]
    committed = Ledger(plan, manifests=[*all_manifests(plan), *images]).committed()
    results, experts = results_table(committed), experts_table(committed)
    assert results.schema == RESULTS_SCHEMA.append(SKIPPED)
    assert experts.schema == EXPERTS_SCHEMA.append(SKIPPED)
    in_all = None if None in expected.values() else 3
    by_row = {task: row["skipped_images"] for task, row in by_task(results).items()}
    assert by_row == {**expected, "macro": in_all, "union": in_all}
    assert {task: row["skipped_images"] for task, row in by_task(experts).items()} == expected


def test_a_study_without_skipped_images_keeps_the_columns_of_earlier_releases(
    make_plan: Callable[..., Plan],
    all_manifests: Callable[[Plan], list[Manifest]],
    data_manifest: Make,
) -> None:
    """The setting alone changes no table."""
    plan = make_plan(tasks={"names": ["font_letters", "mnist_5k"], "on_bad_image": "skip"})
    images = [data_manifest(spec) for spec in plan.datasets]
    committed = Ledger(plan, manifests=[*all_manifests(plan), *images]).committed()
    assert results_table(committed).schema == RESULTS_SCHEMA
    assert experts_table(committed).schema == EXPERTS_SCHEMA


def test_experts_have_a_row_with_every_column(pair_ledger: Callable[..., Ledger]) -> None:
    """One row in full; the other task has a row of its own."""
    ledger = pair_ledger()
    table = experts_table(ledger.committed())
    assert table.schema == EXPERTS_SCHEMA
    assert set(by_task(table)) == {"font_letters", "mnist_5k"}
    assert by_task(table)["mnist_5k"] == {
        "study": "small",
        "backbone": "test_resnet",
        "weights": "none",
        "pretrain_steps": 0,
        "axis": "default",
        "value": "default",
        "setting": "default",
        "task": "mnist_5k",
        "steps": 10,
        "batch_size": 8,
        "lr": 0.01,
        "data_ratio": 1.0,
        "optimizer": "sgd",
        "seed": 0,
        "weight_decay": 0.0,
        "sam_rho": 0.0,
        "schedule": "constant",
        "warmup_steps": 0,
        "head": "trained",
        "average_weights": "none",
        "ema_decay": None,
        "swa_start": None,
        "augment": "none",
        "linearised": False,
        "num_classes": 10,
        "num_examples": 300,
        "outcome": "done",
        "train_loss": 0.75,
        "accuracy": 1.0,
        "loss": 0.1,
        "base_accuracy": 0.4,
        "base_loss": 1.5,
        "expert_id": ledger.plan.setting_experts[0]["mnist_5k"].id,
    }


def test_expert_without_weights_has_a_row_without_scores(
    make_plan: Callable[..., Plan], expert_manifest: Make
) -> None:
    """The row says that the expert diverged; its scores are NaN over no images."""
    plan = make_plan()
    expert = next(iter(plan.experts.values()))
    manifest = expert_manifest(expert, test=None, outcome="diverged")
    (row,) = experts_table(Ledger(plan, manifests=[manifest]).committed()).to_pylist()
    assert (row["outcome"], row["num_examples"]) == ("diverged", 0)
    assert all(math.isnan(row[name]) for name in ("accuracy", "loss", "base_accuracy", "base_loss"))


def test_expert_that_axes_share_is_listed_under_each(
    make_plan: Callable[..., Plan], all_manifests: Callable[[Plan], list[Manifest]]
) -> None:
    """Each task has two rows: under the learning rate and under the steps."""
    plan = make_plan(finetune={"defaults": DEFAULTS, "axes": {"lr": [0.01], "steps": [10]}})
    rows = _rows(experts_table(Ledger(plan, manifests=all_manifests(plan)).committed()))
    assert [row["setting"] for row in rows] == ["lr=0.01"] * 3 + ["steps=10"] * 3
    assert len({row["expert_id"] for row in rows}) == 3


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    return list(table.to_pylist())


def test_experts_with_split_batches_are_named_in_a_column_of_their_own(
    make_plan: Callable[..., Plan], all_manifests: Callable[[Plan], list[Manifest]]
) -> None:
    """The column follows all others, and is there only if an expert needs it."""
    plan = make_plan()
    manifests = all_manifests(plan)
    split = {"gpu": 1.0, "out_of_memory": 2, "micro_batch": 4}
    first = replace(manifests[0], execution=split)
    larger = replace(manifests[1], execution={"gpu": 1.0, "out_of_memory": 1})
    whole = experts_table(Ledger(plan, manifests=[*manifests[:1], larger]).committed())
    assert whole.schema == EXPERTS_SCHEMA
    committed = Ledger(plan, manifests=[first, larger, *manifests[2:]]).committed()
    found = experts_table(committed)
    assert found.schema == EXPERTS_SCHEMA.append(MICRO_BATCH)
    sizes = {row["expert_id"]: row["micro_batch"] for row in found.to_pylist()}
    assert sizes.pop(first.id) == 4
    assert set(sizes.values()) == {None}
    assert results_table(committed).schema == RESULTS_SCHEMA
