import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from measured_tasks import measured_tasks

from orchestrator.bounds.study_measurements import NOTHING_MEASURED, MeasuredOperator
from orchestrator.plan.measurements import operators_of, seed_operators_of
from orchestrator.plan.plan import Plan
from orchestrator.theory.evidence.corollary import corollary_texts, operator_rows
from orchestrator.theory.evidence.regime import best_steps_rows, diagnostic_rows, reach_rows
from workers.artifacts.measured import Measured, OperatorMetrics, ReachMetrics

UNIT = ((1.0, 0.0), (0.0, 1.0))


def metrics(before: tuple[tuple[float, ...], ...], **after: object) -> OperatorMetrics:
    empty = dict.fromkeys(("after", "moved", "flipped", "moved_before", "flipped_before"))
    return OperatorMetrics(before=before, **(empty | after))  # type: ignore[arg-type]


def reach(value: float | None, *, end_loss: float | None = 1.5) -> ReachMetrics:
    return ReachMetrics(
        slope=Measured(value=-1.0, standard_error=0.1),
        curvature=Measured(value=0.5, standard_error=0.1),
        reach=None if value is None else Measured(value=value, standard_error=0.1),
        squared_length=4.0,
        start_loss=2.0,
        end_loss=end_loss,
        batch_size=8,
        num_passes=32,
    )


def test_spreads_by_hand(make_plan: Callable[..., Plan]) -> None:
    """Two orthogonal unit vectors: spread 1/2, relative spread 1; halved, a quarter of the first.

    Methods that only add task vectors have no row.
    """
    plan = make_plan(merge=[{"method": "average"}, {"method": "ties"}])
    half = ((0.25, 0.0), (0.0, 0.25))
    found = metrics(
        UNIT, after=half, moved=(2.0, 2.0), moved_before=(0.25, 0.25), flipped=(0.1, 0.3),
        flipped_before=(0.0, 0.02),
    )  # fmt: skip
    specs = operators_of(plan, leave_one_out=True)
    measured = [MeasuredOperator(merge=each.merge, metrics=found) for each in specs]
    rows = list(operator_rows(plan, measured))
    assert {row["method"] for row in rows} == {"ties"}
    assert {row["group"] for row in rows} == {group.name for group in plan.groups}
    first = rows[0]
    assert (first["spread_before"], first["spread_after"]) == pytest.approx((0.5, 0.125))
    assert (first["relative_before"], first["relative_after"]) == pytest.approx((1, 1))
    assert first["flipped_after"] == pytest.approx(0.2)
    (text,) = corollary_texts(rows)
    assert "the spread of the task vectors falls, to 0.25" in text
    assert "20.0 % of the merge's signs flip (1.0 % of the plain average's)" in text
    assert "moves 8.00 [8.00, 8.00] times as far" in text


def test_stability_that_was_not_measured_names_the_command(
    make_plan: Callable[..., Plan],
) -> None:
    """The spread alone is no whole test of the corollary."""
    plan = make_plan(merge=[{"method": "ties"}])
    specs = operators_of(plan, leave_one_out=False)
    measured = [MeasuredOperator(merge=s.merge, metrics=metrics(UNIT, after=UNIT)) for s in specs]
    (text,) = corollary_texts(list(operator_rows(plan, measured)))
    assert "mergesweep measure NAME --leave-one-out" in text
    measured = [MeasuredOperator(merge=each.merge, metrics=metrics(UNIT)) for each in specs]
    (text,) = corollary_texts(list(operator_rows(plan, measured)))
    assert "no part of a single expert" in text


def test_findings_have_their_numbers(make_plan: Callable[..., Plan]) -> None:
    """Cosine of two seeds, settings by path reach, heterogeneity, surrogate weights by length."""
    defaults = {"steps": 10, "lr": 0.01, "batch_size": 8}
    plan = make_plan(finetune={"defaults": defaults, "axes": {"seed": [0, 1]}})
    pairs = seed_operators_of(plan)
    assert [len(each.merge.experts) for each in pairs] == [2, 2, 2]
    assert {name.partition(",")[2] for name in pairs[0].to_json()["experts"]} == {
        " seed 0",
        " seed 1",
    }
    seeded = ((4.0, 0.6), (0.6, 1.0))  # lengths 2 and 1, cosine 0.3
    values = {spec.id: reach(0.5 if at else 4.0) for at, spec in enumerate(plan.experts.values())}
    measured = replace(
        NOTHING_MEASURED,
        constants={setting.name: measured_tasks(plan) for setting in plan.settings[:1]},
        reaches=values,
        seeds=tuple(MeasuredOperator(merge=p.merge, metrics=metrics(seeded)) for p in pairs),
        operators=tuple(MeasuredOperator(merge=p.merge, metrics=metrics(seeded)) for p in pairs),
    )
    rows = list(diagnostic_rows(plan, measured, bounds=[]))
    numbers = {(row["topic"], row["subject"]): row["number"] for row in rows}
    assert numbers["repeatable share", "mnist_5k"] == pytest.approx(0.3)
    assert numbers["path reach", "beyond 3 (outside any local theory)"] == 1
    assert numbers["path reach", "up to 1 (second order usable)"] == 1
    assert math.isfinite(numbers["heterogeneity", "all tasks"])
    assert numbers["chi-square by length", "all merges"] == pytest.approx(0.125)
    assert all(row["text"] and row["label"] == "measured" for row in rows)


def test_paths_predict_and_measure_the_change(make_plan: Callable[..., Plan]) -> None:
    """Slope -1 and curvature 0.5 predict -0.75; a loss that is not finite has no change."""
    plan = make_plan()
    first, second, *_ = plan.experts.values()
    values = {first.id: reach(0.5), second.id: reach(None, end_loss=None)}
    rows = list(reach_rows(plan, replace(NOTHING_MEASURED, reaches=values)))
    assert [row["predicted_change"] for row in rows] == [-0.75, -0.75]
    assert [row["measured_change"] for row in rows] == [-0.5, None]
    assert [row["reach"] for row in rows] == [0.5, None]


def test_the_best_steps_move_with_the_scaling(make_plan: Callable[..., Plan]) -> None:
    """160 steps at a scaling of 0.3 and 40 at 0.6; methods with one scaling are left out."""
    methods = [
        {"method": "task_arithmetic", "scaling": scaling, "label": f"ta {scaling}"}
        for scaling in (0.3, 0.6)
    ]
    plan = make_plan(merge=[*methods, {"method": "ties"}])
    losses = {
        ("steps", "ta 0.3"): {"40": 2.0, "160": 1.0},
        ("steps", "ta 0.6"): {"40": 1.0, "160": 2.0},
    }
    (row,) = best_steps_rows(plan, losses)
    assert "160 at 0.3, 40 at 0.6 (scaling)" in row["text"]
    assert row["number"] == 40


def test_unlike_task_vectors_repeat_nothing(make_plan: Callable[..., Plan]) -> None:
    """A cosine below 0 is no negative share, and noise is no more than all of it."""
    defaults = {"steps": 10, "lr": 0.01, "batch_size": 8}
    plan = make_plan(finetune={"defaults": defaults, "axes": {"seed": [0, 1]}})
    apart = metrics(((1.0, -0.002), (-0.002, 1.0)))
    seeds = tuple(
        MeasuredOperator(merge=each.merge, metrics=apart) for each in seed_operators_of(plan)
    )
    rows = list(diagnostic_rows(plan, replace(NOTHING_MEASURED, seeds=seeds), bounds=[]))
    assert (
        "cosine of 0.00 (1 pair): 0 % of a task vector's squared length repeats"
        in (rows[0]["text"])
    )
    assert "100 % is noise" in rows[0]["text"]
    assert rows[0]["number"] == pytest.approx(-0.002)
